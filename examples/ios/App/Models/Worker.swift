import Dispatch

/// One thread for everything that takes time, so that models are never used by two at once.
final class Worker: Sendable {
    private let queue = DispatchQueue(label: "org.example.guardedchat.worker", qos: .userInitiated)

    /// Runs a job behind those that wait already.
    func run<T>(_ job: @escaping () throws -> T) async throws -> T {
        try await withCheckedThrowingContinuation { continuation in
            queue.async { continuation.resume(with: Result { try job() }) }
        }
    }
}
