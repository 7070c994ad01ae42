/// What `bundle.json` says of a model, as far as this app uses it (docs/bundle.md has every field).
public struct BundleDocument: Equatable {
    public let name: String
    public let quant: String

    /// Paths of the files that the runtime loads, the program first; some of ``files``.
    public let artifact: [String]
    public let files: [BundledFile]

    /// The runtimes in which the artifact was proved.
    public let runtimes: [RuntimeVersion]

    /// Tokens of prompt and answer together.
    public let contextLength: Int

    /// Every token that ends an answer; ``stopTokens`` are their texts.
    public let stopIDs: Set<Int>
    public let stopTokens: Set<String>

    /// `nil` if the model's chat template is more than text between messages, or there is none.
    public let promptFormat: PromptFormat?

    /// What the licence asks an app to show; may be empty.
    public let notice: String
    public let golden: [GoldenAnswer]
}

/// A file of a bundle.
public struct BundledFile: Equatable {
    public let path: String
    public let stored: StoredFile
}

/// A runtime in one version, for example ExecuTorch's release.
public struct RuntimeVersion: Equatable {
    public let name: String
    public let version: String

    public init(name: String, version: String) {
        self.name = name
        self.version = version
    }
}

/// What the artifact said where it was exported, when the likeliest token was always taken.
public struct GoldenAnswer: Equatable {
    public let promptIDs: [Int]
    public let answerIDs: [Int]
}
