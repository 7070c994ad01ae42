/// What a guard says of a message; ``unclear`` if its answer is no verdict.
public enum VerdictKind: String {
    case safe, unsafe, unclear
}

public struct Verdict: Equatable {
    public let kind: VerdictKind

    /// Of an unsafe message, in the order of their numbers; may be empty.
    public let categories: [Hazard]

    public init(_ kind: VerdictKind, _ categories: [Hazard] = []) {
        self.kind = kind
        self.categories = categories
    }

    /// The verdict in any answer whatever.
    ///
    /// Doubt goes against the message: only a bare "safe" is safe, and whatever begins with "unsafe" is unsafe. Letters, digits
    /// and white space are ASCII's.
    static func parse(_ answer: String) -> Verdict {
        let text = lowercase(answer.trimmingScalars(Set(" \t\n\u{b}\u{c}\r".unicodeScalars)))
        let words = text.unicodeScalars.split { !isLetter($0) }.map(String.init)
        if exactly(text, "safe") || exactly(text, "safe.") { return Verdict(.safe) }
        let isUnsafe = words.first == "unsafe" && text.utf8.starts(with: "unsafe".utf8)
        return isUnsafe ? Verdict(.unsafe, hazardsNamed(in: words)) : Verdict(.unclear)
    }
}

private func hazardsNamed(in words: [String]) -> [Hazard] {
    let numbers = words.compactMap { word in
        (2...3).contains(word.utf8.count) && word.hasPrefix("s") ? Int(word.dropFirst()) : nil
    }
    return Set(numbers).sorted().map { number in
        let code = "S\(number)"
        return hazards.first { $0.code == code } ?? Hazard(code: code, name: "unknown category")
    }
}

/// What may be part of a word.
private func isLetter(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar {
    case "a"..."z", "A"..."Z", "0"..."9", "_": true
    default: false
    }
}

/// Swift's own would make an ASCII letter of letters that are none.
private func lowercase(_ text: String) -> String {
    let capitals = UInt8(ascii: "A")...UInt8(ascii: "Z")
    return String(decoding: text.utf8.map { capitals.contains($0) ? $0 + 32 : $0 }, as: UTF8.self)
}

/// Byte for byte: Swift takes texts for equal that Unicode calls equivalent.
private func exactly(_ text: String, _ other: String) -> Bool {
    text.utf8.elementsEqual(other.utf8)
}
