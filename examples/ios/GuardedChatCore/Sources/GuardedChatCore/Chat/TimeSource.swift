import Dispatch

/// Seconds from some moment on.
public typealias TimeSource = () -> Double

/// Seconds since the device was started.
public func uptime() -> Double {
    Double(DispatchTime.now().uptimeNanoseconds) / 1e9
}
