import GuardedChatCore
import Observation

/// Tests every imported model: its files, the runtime's version, its golden answers.
@MainActor
@Observable
final class SelfTestModel {
    private(set) var lines: [String] = []

    private let worker: Worker
    private let models: Models

    init(worker: Worker, models: Models) {
        self.worker = worker
        self.models = models
    }

    func run() async {
        lines = ["Testing every model …"]
        for role in Role.allCases {
            do {
                try await test(role)
            } catch {
                lines.append("✗ \(error.localizedDescription)")
            }
        }
        lines.append("Done.")
    }

    private func test(_ role: Role) async throws {
        guard let bundle = try await worker.run({ [models] in try models.bundle(for: role) }) else { return }
        lines.append("\(bundle.document.name) \(bundle.document.quant)")
        let (steps, continuation) = AsyncStream.makeStream(of: SelfTest.Step.self)
        async let done: Void = worker.run { [models] in
            defer { continuation.finish() }
            try models.test(bundle) { continuation.yield($0) }
        }
        for await step in steps { lines.append(step.wording) }
        try await done
    }
}
