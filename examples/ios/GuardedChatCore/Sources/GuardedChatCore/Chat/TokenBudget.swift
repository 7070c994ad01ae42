import Foundation

/// A conversation of which not even the last message fits into the model.
public struct TooLong: LocalizedError, Equatable {
    public let message: String

    public var errorDescription: String? { message }
}

/// How much of a conversation goes into a prompt, so that the answer has room too.
struct TokenBudget {
    /// Tokens of prompt and answer together.
    let contextLength: Int

    /// Tokens that must remain for the answer.
    let answerTokens: Int

    /// Leaves out whole exchanges, the oldest first, but never the last message, nor the question to a last answer.
    ///
    /// - Parameters:
    ///   - frame: Tokens around the messages.
    ///   - turns: Tokens of each message of user and assistant in turn.
    /// - Throws: ``TooLong`` if what must stay does not fit.
    func plan(frame: Int, turns: [Int]) throws -> TokenPlan {
        var dropped = 0
        var needed = frame + turns.reduce(0, +)
        while turns.count - dropped > 2 && needed + answerTokens > contextLength {
            needed -= turns[dropped] + turns[dropped + 1]
            dropped += 2
        }
        if needed + answerTokens > contextLength {
            let room = "\(needed) of \(contextLength) tokens, and \(answerTokens) are kept for the answer"
            throw TooLong(message: "the message is too long: \(room)")
        }
        return TokenPlan(dropped: dropped, maxNewTokens: contextLength - needed)
    }
}

struct TokenPlan: Equatable {
    /// Messages to leave out at the beginning.
    let dropped: Int

    /// Tokens that remain for the answer.
    let maxNewTokens: Int
}

/// Tokens of a text at most: its bytes, because no tokenizer that falls back to bytes makes more of it.
///
/// The app has no tokenizer of its own, only the runner has one. What the runner counted replaces this bound as soon as it has
/// read the text.
func tokensAtMost(_ text: String) -> Int {
    text.utf8.count
}
