import Foundation
import GuardedChatCore

/// What a model is for.
enum Role: String, CaseIterable {
    case chat
    case judge = "guard"
}

/// Meta's default for Llama 3 (`generation_config.json`).
private let chatTemperature = 0.6

/// The models of this app, on the disk and, once they are asked for, in memory; for the ``Worker``'s thread.
final class Models {
    private let slots: [Role: BundleSlot]
    private let versions = runtimes.mapValues(\.version)
    private var loaded: GuardedChat?

    /// - Parameter folder: Where bundles are kept, unpacked.
    init(folder: URL) {
        let versions = versions
        slots = Dictionary(
            uniqueKeysWithValues: Role.allCases.map { role in
                (role, BundleSlot(folder: folder.appendingPathComponent(role.rawValue), runtimes: versions))
            }
        )
    }

    /// The bundle for a role, or `nil` if none was imported.
    func bundle(for role: Role) throws -> ModelBundle? {
        try slots[role]!.open()
    }

    /// The conversation, its models loaded; `nil` if there is no chat model.
    func chat() throws -> GuardedChat? {
        if loaded == nil { loaded = try bundle(for: .chat).map(loadChat) }
        return loaded
    }

    /// Takes a bundle in; see ``BundleSlot/replace(with:onBytes:)``.
    func replace(_ role: Role, with file: URL, onBytes: (Int) -> Void) throws {
        loaded = nil
        _ = try slots[role]!.replace(with: ByteStream(file), onBytes: onBytes)
    }

    /// Tests a bundle; see ``SelfTest/run(_:onPassed:)``.
    func test(_ bundle: ModelBundle, onPassed: (SelfTest.Step) -> Void) throws {
        // The test loads the model again, and a phone seldom has room for two of them.
        loaded = nil
        try SelfTest(runtimes: versions) { try load($0, temperature: 0) }.run(bundle, onPassed: onPassed)
    }

    private func loadChat(_ bundle: ModelBundle) throws -> GuardedChat {
        let document = bundle.document
        guard let format = document.promptFormat else {
            throw EngineProblem(
                "The chat template of \(document.name) is more than text between messages: choose a chat model."
            )
        }
        return GuardedChat(
            engine: try load(bundle, temperature: chatTemperature),
            format: format,
            stopTokens: document.stopTokens,
            judge: try self.bundle(for: .judge).map(loadGuard)
        )
    }

    private func loadGuard(_ bundle: ModelBundle) throws -> Guard {
        Guard(engine: try load(bundle, temperature: 0), stopTokens: bundle.document.stopTokens)
    }
}
