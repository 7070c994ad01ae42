private let knownSchema = 1

extension BundleDocument {
    /// `bundle.json` from its text.
    ///
    /// - Throws: ``BundleProblem`` with the first thing that is wrong.
    static func parse(_ text: String) throws -> BundleDocument {
        let document = try load(text)
        if let complaint = complaint(about: document) { throw BundleProblem.invalid(complaint) }
        let fields = Fields(object: document)
        if fields.array("golden").isEmpty { throw BundleProblem.goldenMissing }
        return fields.document
    }

    private static func load(_ text: String) throws -> JSONObject {
        guard let found = try? JSON.parse(text) else { throw BundleProblem.invalid("it is not JSON") }
        guard let object = found.object else { throw BundleProblem.invalid("it is not an object") }
        if let schema = object["schema"]?.integer, schema != knownSchema {
            throw BundleProblem.schema(found: schema, expected: knownSchema)
        }
        return object
    }
}

extension PromptFormat {
    /// `prompt_format` of a document with which nothing is wrong.
    init(fields object: JSONObject) {
        let fields = Fields(object: object)
        self.init(
            begin: fields.text("begin"),
            beginSystem: fields.text("begin_system"),
            systemUser: fields.text("system_user"),
            userAssistant: fields.text("user_assistant"),
            assistantUser: fields.text("assistant_user"),
            userEnd: fields.text("user_end"),
            trims: object["trims"]!.bool!,
            dateFormat: object["date_format"]!.string
        )
    }
}

/// Fields of an object that ``complaint(about:)`` found nothing wrong with.
private struct Fields {
    let object: JSONObject

    func text(_ name: String) -> String { object[name]!.string! }

    func integer(_ name: String) -> Int { object[name]!.integer! }

    func array(_ name: String) -> [JSON] { object[name]!.array! }

    func integers(_ name: String) -> [Int] { array(name).map { $0.integer! } }

    func texts(_ name: String) -> [String] { array(name).map { $0.string! } }

    func entries(_ name: String) -> [Fields] { array(name).map { Fields(object: $0.object!) } }

    var document: BundleDocument {
        let versions = object["runtime"]!.object!["versions"]!.object!
        return BundleDocument(
            name: text("name"),
            quant: text("quant"),
            artifact: texts("artifact"),
            files: entries("files").map { file in
                let stored = StoredFile(bytes: file.integer("bytes"), sha256: file.text("sha256"))
                return BundledFile(path: file.text("path"), stored: stored)
            },
            runtimes: versions.names.map { RuntimeVersion(name: $0, version: versions[$0]!.string!) },
            contextLength: integer("context_length"),
            stopIDs: Set(integers("stop_ids")),
            stopTokens: Set(texts("stop_tokens")),
            promptFormat: object["prompt_format"]!.object.map(PromptFormat.init(fields:)),
            notice: text("notice"),
            golden: entries("golden").map { answer in
                GoldenAnswer(promptIDs: answer.integers("prompt_ids"), answerIDs: answer.integers("answer_ids"))
            }
        )
    }
}
