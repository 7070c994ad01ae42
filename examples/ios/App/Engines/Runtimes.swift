import Foundation
import GuardedChatCore

/// A runtime that this app links.
struct Runtime {
    /// Key in `Info.plist` under which `project.yml` puts the version that it links.
    let versionKey: String

    /// Makes a model ready; temperature 0 takes the likeliest token always.
    let load: (_ bundle: ModelBundle, _ temperature: Double) throws -> ModelEngine

    var version: String {
        Bundle.main.object(forInfoDictionaryKey: versionKey) as? String ?? "none"
    }
}

/// Runtime, as bundles name it -> what this app has of it.
let runtimes: [String: Runtime] = [
    "executorch": Runtime(versionKey: "ExecuTorchVersion") { ExecuTorchEngine($0, temperature: $1) },
    "llama.cpp": Runtime(versionKey: "LlamaCppBuild") { try LlamaEngine($0, temperature: Float($1)) },
]

/// A bundle's model in the runtime that it was proved in; 0 takes the likeliest token always.
func load(_ bundle: ModelBundle, temperature: Double) throws -> ModelEngine {
    guard let runtime = bundle.document.runtimes.lazy.compactMap({ runtimes[$0.name] }).first else {
        throw EngineProblem("this app has no runtime for \(bundle.document.name)")
    }
    return try runtime.load(bundle, temperature)
}
