import Foundation

/// A flag that one thread raises and another one sees.
final class StopFlag: @unchecked Sendable {
    private let lock = NSLock()
    private var raised = false

    var isRaised: Bool {
        get { lock.withLock { raised } }
        set { lock.withLock { raised = newValue } }
    }
}
