import Foundation

/// The runtime here answers as the one that the bundle was made with.
///
/// - Parameter greedy: Prompt and number of tokens -> at most these many tokens, the likeliest each time.
/// - Throws: ``BundleProblem`` for the first answer that differs.
func checkGolden(_ golden: [GoldenAnswer], greedy: (_ promptIDs: [Int], _ count: Int) throws -> [Int]) throws {
    for (index, expected) in golden.enumerated() {
        let found = try greedy(expected.promptIDs, expected.answerIDs.count)
        if found != expected.answerIDs { throw BundleProblem.goldenDiffers(index + 1) }
    }
}

/// Proves on the device that a bundle is whole and that the runtime computes with it what it should.
public struct SelfTest {
    /// What is looked at, in this order.
    public enum Step: CaseIterable {
        case files, runtime, goldenAnswers
    }

    private let runtimes: [String: String]
    private let load: (ModelBundle) throws -> ModelEngine

    /// - Parameter runtimes: Runtime -> version in this app.
    public init(runtimes: [String: String], load: @escaping (ModelBundle) throws -> ModelEngine) {
        self.runtimes = runtimes
        self.load = load
    }

    /// - Parameter onPassed: Told of each step that passed.
    /// - Throws: ``BundleProblem`` if something is wrong, and what the engine throws.
    public func run(_ bundle: ModelBundle, onPassed: (Step) -> Void) throws {
        let document = bundle.document
        try checkFiles(document.files) { path in
            let file = bundle.folder.appendingPathComponent(path)
            return FileManager.default.fileExists(atPath: file.path) ? try StoredFile(file) : nil
        }
        onPassed(.files)
        try checkRuntimes(document.runtimes, found: runtimes)
        onPassed(.runtime)
        let engine = try load(bundle)
        try checkGolden(document.golden) { try engine.greedy($0, count: $1, stopIDs: document.stopIDs) }
        onPassed(.goldenAnswers)
    }
}
