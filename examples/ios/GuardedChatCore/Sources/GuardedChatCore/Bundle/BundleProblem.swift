import Foundation

/// What can be wrong with a bundle, in the words that the exporter and the other apps use as well (docs/bundle.md).
public struct BundleProblem: LocalizedError, Equatable {
    public let message: String

    public var errorDescription: String? { message }

    static let missing = BundleProblem(message: "bundle.json is missing")

    static let archive = BundleProblem(message: "the archive cannot be read")

    static func invalid(_ reason: String) -> BundleProblem {
        BundleProblem(message: "bundle.json is not valid: \(reason)")
    }

    static func schema(found: Int, expected: Int) -> BundleProblem {
        BundleProblem(message: "bundle schema \(found) is not supported, this reader knows schema \(expected)")
    }

    static func fileMissing(_ path: String) -> BundleProblem {
        BundleProblem(message: "\(path) is missing from the bundle")
    }

    static func fileChanged(_ path: String) -> BundleProblem {
        BundleProblem(message: "\(path) is not the file that was bundled")
    }

    static func runtime(_ name: String, expected: String, found: String) -> BundleProblem {
        BundleProblem(message: "the bundle needs \(name) \(expected), here is \(found)")
    }

    static let goldenMissing = BundleProblem(message: "the bundle has no golden answers")

    static func goldenDiffers(_ number: Int) -> BundleProblem {
        BundleProblem(message: "golden answer \(number) differs: this runtime does not compute what was proved")
    }
}
