import ExecuTorch
import ExecuTorchLLM
import Foundation
import GuardedChatCore

/// A model in ExecuTorch: its LLM runner for text, which has a tokenizer and a sampler of its own, and its module for logits,
/// because the runner tells no token ids. Each is loaded when it is first needed, and a phone seldom has room for both.
final class ExecuTorchEngine: ModelEngine {
    let contextLength: Int

    private let bundle: ModelBundle
    private let temperature: Double

    private lazy var runner = TextRunner(
        modelPath: bundle.program.path,
        tokenizerPath: bundle.tokenizer.path,
        // A tokenizer.json brings its own; a tokenizer.model of Meta's has to be told all of them.
        specialTokens: bundle.specialTokens
    )

    private lazy var module = Module(
        filePath: bundle.program.path,
        dataFilePaths: bundle.data.map(\.path),
        loadMode: .mmap
    )

    /// - Parameter temperature: 0 takes the likeliest token always.
    init(_ bundle: ModelBundle, temperature: Double) {
        self.bundle = bundle
        self.temperature = temperature
        contextLength = bundle.document.contextLength
    }

    /// - Throws: ``EngineProblem`` if the weights have a file of their own, which the runner has no argument for; `NSError` if
    ///   ExecuTorch does not load the model or cannot run it.
    func generate(_ prompt: String, onPiece: (String) -> Bool) throws -> TokenCounts? {
        guard bundle.data.isEmpty else {
            throw EngineProblem("ExecuTorch's TextRunner loads no weights beside the program")
        }
        // The runner would append the prompt to what it has read before.
        runner.reset()
        let config = Config { [contextLength, temperature] config in
            config.isEchoEnabled = false
            config.sequenceLength = contextLength
            config.temperature = temperature
        }
        try withoutActuallyEscaping(onPiece) { onPiece in
            try runner.generate(prompt, config) { [runner] piece in
                if !onPiece(piece) { runner.stop() }
            }
        }
        // It keeps its counts to itself.
        return nil
    }

    func logits(of ids: [Int], at position: Int) throws -> [Float] {
        let tokens = Tensor<Int64>(ids.map(Int64.init), shape: [1, ids.count])
        let start = Tensor<Int64>([Int64(position)], shape: [1])
        let logits: Tensor<Float> = try module.forward(tokens, start)
        return logits.scalars()
    }
}
