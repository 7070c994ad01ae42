private typealias Check = (JSON) -> Bool
private typealias Rules = KeyValuePairs<String, Check>

private let text: Check = { $0.string != nil }
private let integer: Check = { $0.integer != nil }
private let flag: Check = { $0.bool != nil }
private let list: Check = { $0.array != nil }
private let object: Check = { $0.object != nil }
private let textsByName: Check = { value in
    guard let found = value.object else { return false }
    return found.names.allSatisfy { text(found[$0]!) }
}

private func orNull(_ check: @escaping Check) -> Check {
    { $0 == .null || check($0) }
}

/// Field -> what its value must be.
private let fields: Rules = [
    "schema": integer,
    "name": text,
    "target": text,
    "quant": text,
    "artifact": list,
    "files": list,
    "runtime": object,
    "requires": object,
    "context_length": integer,
    "vocab_size": integer,
    "expected_ram_bytes": integer,
    "bos_id": orNull(integer),
    "stop_ids": list,
    "stop_tokens": list,
    "chat_template": orNull(text),
    "prompt_format": orNull(object),
    "license": text,
    "notice": text,
    "golden": list,
]

/// Field -> the fields of its object.
private let nested: KeyValuePairs<String, Rules> = [
    "runtime": ["versions": textsByName, "packages": textsByName],
    "prompt_format": [
        "begin": text,
        "begin_system": text,
        "system_user": text,
        "user_assistant": text,
        "assistant_user": text,
        "user_end": text,
        "trims": flag,
        "date_format": orNull(text),
    ],
]

/// List -> what its entries must be.
private let entries: Rules = [
    "artifact": text,
    "files": isFile,
    "stop_ids": integer,
    "stop_tokens": text,
    "golden": isGolden,
]

/// What is wrong with a document, the most general first; each check relies on those before it.
func complaint(about document: JSONObject) -> String? {
    if let found = complaint(about: document, fields) { return found }
    for (name, rules) in nested {
        guard let value = document[name]?.object else { continue }
        if let found = complaint(about: value, rules, prefix: "\(name).") { return found }
    }
    for (name, check) in entries where !(document[name]?.array ?? []).allSatisfy(check) {
        return "\(name) has an entry that is none"
    }
    let artifact = document["artifact"]?.array ?? []
    let paths = (document["files"]?.array ?? []).compactMap { $0.object?["path"] }
    return artifact.isEmpty || !artifact.allSatisfy(paths.contains) ? "artifact is not among the files" : nil
}

private func complaint(about found: JSONObject, _ rules: Rules, prefix: String = "") -> String? {
    for (name, check) in rules {
        guard let value = found[name] else { return "\(prefix)\(name) is missing" }
        if !check(value) { return "\(prefix)\(name) has another type" }
    }
    return nil
}

private func isFile(_ entry: JSON) -> Bool {
    guard let file = entry.object, let path = file["path"]?.string, let sha256 = file["sha256"]?.string else {
        return false
    }
    return staysInside(path) && file["bytes"]?.integer != nil && isSHA256(sha256)
}

private func isSHA256(_ text: String) -> Bool {
    text.utf8.count == 64 && text.utf8.allSatisfy("0123456789abcdef".utf8.contains)
}

/// Whether a path leads to something below the folder that it is read from.
///
/// Bytes and not characters, as the file system has it: to Swift, a slash and the accent that follows it are one character.
func staysInside(_ path: String) -> Bool {
    let bytes = Array(path.utf8)
    let parts = bytes.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
    return !bytes.isEmpty && bytes[0] != UInt8(ascii: "/") && !parts.contains { $0.elementsEqual("..".utf8) }
}

private func isGolden(_ entry: JSON) -> Bool {
    guard let answer = entry.object, answer["prompt"]?.string != nil else { return false }
    return ["prompt_ids", "answer_ids"].allSatisfy { answer[$0]?.array?.allSatisfy(integer) ?? false }
}
