/// Why an answer ended.
public enum AnswerEnd {
    /// The model said so.
    case finished

    /// The user pressed Stop.
    case stopped

    /// There was no room for more tokens.
    case full
}

/// An answer, or what there is of it so far.
public struct Answer: Equatable {
    public let text: String
    public let tokens: Int

    /// From the first token on; `nil` before there are two.
    public let tokensPerSecond: Double?

    /// `nil` while it grows.
    public let end: AnswerEnd?
}

/// Makes an answer of the pieces that a runner hands out.
///
/// It decides when to end, because ExecuTorch's runner does not always: it passes over an end token that comes first, and
/// forgets a `stop()` before the second token. So ``accept(_:)`` says no again for every piece that still comes.
final class AnswerStream {
    private let stopTokens: Set<String>
    private let maxTokens: Int
    private let isStopped: () -> Bool
    private let clock: TimeSource
    private var text = ""
    private var tokens = 0
    private var firstAt = 0.0
    private var lastAt = 0.0
    private var end: AnswerEnd?

    /// - Parameters:
    ///   - stopTokens: Texts of the tokens that end an answer; the runner hands these out too.
    ///   - isStopped: Asked at every piece.
    init(
        stopTokens: Set<String>,
        maxTokens: Int,
        isStopped: @escaping () -> Bool = { false },
        clock: @escaping TimeSource = uptime
    ) {
        self.stopTokens = stopTokens
        self.maxTokens = maxTokens
        self.isStopped = isStopped
        self.clock = clock
    }

    /// Takes a piece; whether the runner is to go on.
    func accept(_ piece: String) -> Bool {
        if end == nil { end = end(before: piece) }
        if end == nil {
            append(piece)
            if tokens == maxTokens { end = .full }
        }
        return end == nil
    }

    /// The answer so far.
    var answer: Answer {
        let seconds = lastAt - firstAt
        let speed = tokens > 1 && seconds > 0 ? Double(tokens - 1) / seconds : nil
        return Answer(text: text, tokens: tokens, tokensPerSecond: speed, end: end)
    }

    /// The answer, when the runner has returned: if nobody ended it here, its cache was full.
    func finish() -> Answer {
        end = end ?? .full
        return answer
    }

    private func end(before piece: String) -> AnswerEnd? {
        if isStopped() { return .stopped }
        return stopTokens.contains(piece) ? .finished : nil
    }

    private func append(_ piece: String) {
        lastAt = clock()
        if tokens == 0 { firstAt = lastAt }
        text += piece
        tokens += 1
    }
}
