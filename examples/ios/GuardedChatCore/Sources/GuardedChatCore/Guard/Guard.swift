/// A verdict fits in these many tokens, with several codes.
public let verdictTokens = 32

/// A Llama Guard model that judges the last message of a conversation.
public final class Guard {
    private let engine: ModelEngine
    private let stopTokens: Set<String>
    private let budget: TokenBudget

    /// - Parameter stopTokens: Of the guard model.
    public init(engine: ModelEngine, stopTokens: Set<String>) {
        self.engine = engine
        self.stopTokens = stopTokens
        budget = TokenBudget(contextLength: engine.contextLength, answerTokens: verdictTokens)
    }

    /// - Parameter turns: Messages of user and assistant in turn, the user's first; of a long conversation the guard sees its end.
    /// - Throws: ``TooLong`` if the message does not fit into the guard, and what the engine throws.
    func judge(_ turns: [String]) throws -> Verdict {
        let tokens = turns.map { tokensAtMost($0) + tokensAtMost("Agent: \n\n") }
        let plan = try budget.plan(frame: tokensAtMost(guardPrompt(["", ""])), turns: tokens)
        let stream = AnswerStream(stopTokens: stopTokens, maxTokens: verdictTokens)
        _ = try engine.generate(guardPrompt(Array(turns.dropFirst(plan.dropped))), onPiece: stream.accept)
        return Verdict.parse(stream.finish().text)
    }
}
