import Foundation

/// What happens while a question is answered, in this order.
public enum ChatEvent: Equatable {
    case questionJudged(Verdict)
    case answerGrew(Answer)
    case answerJudged(Verdict)
}

/// What became of a question.
public enum Outcome: Equatable {
    case answered(Answer)

    /// The guard does not call the question safe; the chat model has not seen it.
    case refused

    /// The guard does not call the answer safe; it is not to be shown any longer.
    case withheld

    /// Stop was pressed before there was an answer.
    case stopped
}

/// A conversation with a model under the eyes of a guard: it judges a question before the model reads it, and the answer when it
/// is complete. What it does not call safe is no part of the conversation.
///
/// For one thread, but for ``stop()``.
public final class GuardedChat {
    private struct Turn {
        let text: String
        var tokens: Int
    }

    private let engine: ModelEngine
    private let format: PromptFormat
    private let stopTokens: Set<String>
    private let judge: Guard?
    private let clock: TimeSource
    private let budget: TokenBudget
    private let joint: Int
    private let stopFlag = StopFlag()
    private var turns: [Turn] = []

    /// - Parameters:
    ///   - stopTokens: Of the chat model.
    ///   - judge: `nil` to talk without one.
    public init(
        engine: ModelEngine,
        format: PromptFormat,
        stopTokens: Set<String>,
        judge: Guard?,
        clock: @escaping TimeSource = uptime
    ) {
        self.engine = engine
        self.format = format
        self.stopTokens = stopTokens
        self.judge = judge
        self.clock = clock
        budget = TokenBudget(contextLength: engine.contextLength, answerTokens: engine.contextLength / 4)
        joint = max(tokensAtMost(format.userAssistant), tokensAtMost(format.assistantUser))
    }

    /// Ends what ``ask(_:onEvent:)`` is doing, at the next token; from any thread.
    public func stop() {
        stopFlag.isRaised = true
    }

    /// Begins a new conversation.
    public func clear() {
        turns = []
    }

    /// Asks the next question; returns when there is an answer, or none.
    ///
    /// - Parameter onEvent: Told what happens, by the thread that asks.
    /// - Throws: ``TooLong`` if the question does not fit into a model, and what the engines throw.
    public func ask(_ question: String, onEvent: (ChatEvent) -> Void) throws -> Outcome {
        stopFlag.isRaised = false
        let text = defused(question)
        var asked = Turn(text: text, tokens: tokensAtMost(text) + joint)
        let questioned = turns.map(\.text) + [asked.text]
        if !(try passes(questioned) { onEvent(.questionJudged($0)) }) { return .refused }
        if stopFlag.isRaised { return .stopped }
        let answer = try answer(&asked, onEvent: onEvent)
        let said = defused(strip(answer.text))
        if said.isEmpty { return .answered(answer) }
        if !(try passes(questioned + [said]) { onEvent(.answerJudged($0)) }) { return .withheld }
        turns += [asked, Turn(text: said, tokens: answer.tokens + joint)]
        return .answered(answer)
    }

    private func passes(_ texts: [String], tell: (Verdict) -> Void) throws -> Bool {
        guard let verdict = try judge?.judge(texts) else { return true }
        tell(verdict)
        return verdict.kind == .safe
    }

    private func answer(_ asked: inout Turn, onEvent: (ChatEvent) -> Void) throws -> Answer {
        let (now, zone) = (Date(), TimeZone.current)
        let frame = tokensAtMost(format.render(system: nil, turns: [""], now: now, in: zone))
        let plan = try budget.plan(frame: frame, turns: (turns + [asked]).map(\.tokens))
        let kept = turns.dropFirst(plan.dropped)
        let prompt = format.render(system: nil, turns: kept.map(\.text) + [asked.text], now: now, in: zone)
        let stream = AnswerStream(
            stopTokens: stopTokens,
            maxTokens: plan.maxNewTokens,
            isStopped: { [stopFlag] in stopFlag.isRaised },
            clock: clock
        )
        let counts = try engine.generate(prompt) { piece in
            let goesOn = stream.accept(piece)
            onEvent(.answerGrew(stream.answer))
            return goesOn
        }
        // What the runtime has counted replaces the bound: the rest of the prompt was counted before.
        if let counts {
            asked.tokens = max(0, counts.prompt - frame - kept.map(\.tokens).reduce(0, +))
        }
        return stream.finish()
    }
}

/// A text without names of special tokens: a runtime's tokenizer would take `<|eot_id|>` in a message for the end of that
/// message, and what follows for words of another role.
private func defused(_ text: String) -> String {
    text.replacingBytes(of: "<|", with: "< |")
}
