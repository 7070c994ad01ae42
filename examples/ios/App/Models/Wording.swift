import Foundation
import GuardedChatCore

/// What the app says, in one place.
enum Wording {
    static let noModel = "No chat model yet: import its bundle from the menu."
    static let withheld = "This answer is withheld."
    static let refused = "Not answered."
    static let stopped = "Stopped."

    static func importing(bytes: Int) -> String {
        "Importing: \(bytes / 1_000_000) MB"
    }

    static func speed(_ answer: Answer) -> String {
        "\(answer.tokens) tokens, \(String(format: "%.1f", answer.tokensPerSecond ?? 0)) tokens/s."
    }
}

extension Verdict {
    var wording: String {
        switch kind {
        case .safe: "Safe."
        case .unsafe: "Unsafe: \(categories.map { "\($0.code) \($0.name)" }.joined(separator: ", "))"
        case .unclear: "The guard gives no verdict: is it a Llama Guard model?"
        }
    }
}

extension AnswerEnd {
    /// `nil` if there is nothing to say.
    var wording: String? {
        switch self {
        case .finished: return nil
        case .stopped: return Wording.stopped
        case .full: return "Cut off: the model has no room for more."
        }
    }
}

extension SelfTest.Step {
    var wording: String {
        switch self {
        case .files: "✓ every file is what was bundled"
        case .runtime: "✓ the runtime has the version that it was proved in"
        case .goldenAnswers: "✓ the golden answers are the same, token by token"
        }
    }
}
