// What the app calls of ExecuTorch's Swift interface, declared by hand from its sources (extension/apple/ExecuTorch/Exported:
// ExecuTorchModule.h, ExecuTorch+Module.swift, ExecuTorch+Tensor.swift), because its frameworks are for Apple's systems only.

public protocol Scalar {}

extension Int64: Scalar {}
extension Float: Scalar {}

public protocol ValueConvertible {}

public protocol ValueSequenceConstructible {}

public enum ModuleLoadMode: Int {
    case file, mmap, mmapUseMlock, mmapUseMlockIgnoreErrors
}

public enum ShapeDynamism: Int {
    case `static`, dynamicBound, dynamicUnbound
}

public final class Tensor<T: Scalar>: ValueConvertible, ValueSequenceConstructible {
    public init(
        _ scalars: [T],
        shape: [Int] = [],
        strides: [Int] = [],
        dimensionOrder: [Int] = [],
        shapeDynamism: ShapeDynamism = .dynamicBound
    ) {}

    public func scalars() -> [T] { fatalError() }
}

public class Module {
    public init(filePath: String, dataFilePaths: [String], loadMode: ModuleLoadMode) {}

    public func forward<Output: ValueSequenceConstructible>(_ inputs: ValueConvertible...) throws -> Output {
        fatalError()
    }
}
