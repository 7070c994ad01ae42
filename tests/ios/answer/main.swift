import Foundation
import GuardedChatCore
import llama

// The app's engine for llama.cpp where there is no phone: `answer FOLDER LIBRARIES PROMPT COUNT` asks for the golden answers of
// the bundle in FOLDER, and says what follows PROMPT. The library here is another release than the bundle names, and takes its
// processor's code from LIBRARIES.

func answer(_ arguments: [String]) throws {
    llama_log_set({ _, _, _ in }, nil)
    ggml_backend_load_all_from_path(arguments[2])
    let bundle = try ModelBundle(folder: URL(fileURLWithPath: arguments[1]))
    let versions = bundle.document.runtimes.map { ($0.name, $0.version) }
    let test = SelfTest(runtimes: Dictionary(uniqueKeysWithValues: versions)) { try LlamaEngine($0, temperature: 0) }
    try test.run(bundle) { print("passed \($0)") }

    var pieces: [String] = []
    let counts = try LlamaEngine(bundle, temperature: 0).generate(arguments[3]) { piece in
        pieces.append(piece)
        return pieces.count < Int(arguments[4])!
    }
    print("read \(counts!.prompt), wrote \(counts!.generated): \(pieces.joined())")
}

do {
    try answer(CommandLine.arguments)
} catch {
    print(error.localizedDescription)
    exit(1)
}
