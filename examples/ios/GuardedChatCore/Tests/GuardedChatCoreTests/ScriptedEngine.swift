@testable import GuardedChatCore

/// Says what a test wants it to say, token by token, and remembers what it was asked.
final class ScriptedEngine: ModelEngine {
    let contextLength: Int
    private let counts: TokenCounts?
    private let say: (_ prompt: String) -> [String]
    private(set) var prompts: [String] = []

    init(contextLength: Int = 4096, counts: TokenCounts? = nil, say: @escaping (_ prompt: String) -> [String]) {
        self.contextLength = contextLength
        self.counts = counts
        self.say = say
    }

    func generate(_ prompt: String, onPiece: (String) -> Bool) -> TokenCounts? {
        prompts.append(prompt)
        _ = say(prompt).allSatisfy(onPiece)
        return counts
    }

    func logits(of ids: [Int], at position: Int) -> [Float] { [] }
}

/// A model that knows of each token which ones follow, all equally likely, and notes where it is told the wrong position.
final class SuccessorEngine: ModelEngine {
    let contextLength = 10
    private let successors: [Int: [Int]]
    private var seen = 0
    private(set) var wasLost = false

    init(_ successors: [Int: [Int]]) {
        self.successors = successors
    }

    func generate(_ prompt: String, onPiece: (String) -> Bool) -> TokenCounts? { nil }

    func logits(of ids: [Int], at position: Int) -> [Float] {
        if position == 0 { seen = 0 }
        wasLost = wasLost || position != seen
        seen += ids.count
        let next = successors[ids.last ?? -1] ?? []
        return (0..<10).map { next.contains($0) ? 1 : 0 }
    }
}
