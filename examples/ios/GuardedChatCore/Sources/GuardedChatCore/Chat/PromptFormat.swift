import Foundation

private let datePlace = "{{date}}"

/// A chat template as the text between messages (docs/bundle.md, `prompt_format`).
public struct PromptFormat: Equatable {
    /// Before the first message of the user, where there is no system message.
    public let begin: String

    /// Before the system message; ``systemUser`` stands between it and the first message of the user.
    public let beginSystem: String
    public let systemUser: String

    /// Between a message of the user and the answer; ``assistantUser`` the other way round.
    public let userAssistant: String
    public let assistantUser: String

    /// Behind the last message of the user; the model continues from here.
    public let userEnd: String

    /// Whether each message loses the white space at its ends.
    public let trims: Bool

    /// `strftime` format of what stands for `{{date}}` in these texts; `nil` if they have no date.
    public let dateFormat: String?

    /// The prompt of a conversation.
    ///
    /// - Parameter turns: Messages of user and assistant in turn, the user's first and last.
    func render(system: String?, turns: [String], now: Date, in zone: TimeZone) -> String {
        let messages = ([system].compactMap { $0 } + turns).map { trims ? strip($0) : $0 }
        let heads = system == nil ? [begin] : [beginSystem, systemUser]
        let joints = (0..<turns.count - 1).map { $0.isMultiple(of: 2) ? userAssistant : assistantUser }
        // A message that reads {{date}} stays what it is.
        let date = dateFormat.map { strftime($0, now, in: zone) }
        let texts = (heads + joints + [userEnd]).map { text in
            date.map { text.replacingBytes(of: datePlace, with: $0) } ?? text
        }
        return texts[0] + zip(messages, texts.dropFirst()).map(+).joined()
    }
}
