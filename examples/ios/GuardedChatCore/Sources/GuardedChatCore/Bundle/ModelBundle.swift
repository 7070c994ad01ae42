import Foundation

private let documentName = "bundle.json"

/// An unpacked bundle.
public struct ModelBundle {
    public let folder: URL
    public let document: BundleDocument

    /// - Throws: ``BundleProblem`` if the document is missing or not valid; files are not looked at.
    public init(folder: URL) throws {
        self.folder = folder
        guard let data = try? Data(contentsOf: folder.appendingPathComponent(documentName)) else {
            throw BundleProblem.missing
        }
        let text = String(decoding: data, as: UTF8.self)
        // What is not UTF-8 is decoded to something else.
        guard text.utf8.elementsEqual(data) else { throw BundleProblem.invalid("it is not JSON") }
        document = try BundleDocument.parse(text)
    }

    /// What the runtime loads first.
    public var program: URL {
        folder.appendingPathComponent(document.artifact[0])
    }

    /// Weights that the program has in files of their own.
    public var data: [URL] {
        document.artifact.dropFirst().map(folder.appendingPathComponent)
    }

    /// What the runtime's tokenizer reads; it lies beside the program.
    public var tokenizer: URL {
        beside("tokenizer.json")
    }

    /// Names of all special tokens, for tokenizers that have to be told; none if the bundle does not list them.
    public var specialTokens: [String] {
        guard let text = try? String(contentsOf: beside("runtime.json"), encoding: .utf8),
            let found = try? JSON.parse(text).object?["special_tokens"]?.array
        else { return [] }
        return found.compactMap(\.string)
    }

    private func beside(_ name: String) -> URL {
        program.deletingLastPathComponent().appendingPathComponent(name)
    }
}
