import Foundation

/// The conversation on the screen: messages, verdicts and notes, one below the other.
struct Transcript {
    enum Kind {
        /// Of the user.
        case question

        /// Of the model; its text grows.
        case answer

        /// What the app has to say.
        case note
    }

    struct Entry: Identifiable {
        let id = UUID()
        let kind: Kind
        var text: String
    }

    private(set) var entries: [Entry] = []

    mutating func add(_ kind: Kind, _ text: String) {
        entries.append(Entry(kind: kind, text: text))
    }

    /// Shows the answer so far; begins it if there is none below the last question.
    mutating func show(answer text: String) {
        if let index = lastAnswer { entries[index].text = text } else { add(.answer, text) }
    }

    /// Puts something else in the place of an answer that is not to be seen, if there is one.
    mutating func withhold(_ text: String) {
        if let index = lastAnswer { entries[index].text = text }
    }

    mutating func clear() {
        entries = []
    }

    /// Below the last question.
    private var lastAnswer: Int? {
        let begin = entries.lastIndex { $0.kind == .question } ?? 0
        return entries[begin...].lastIndex { $0.kind == .answer }
    }
}
