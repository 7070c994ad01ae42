private let maxDepth = 500

private let whiteSpace = Set(" \t\n\r".utf8)
private let digits = UInt8(ascii: "0")...UInt8(ascii: "9")
private let quote = UInt8(ascii: "\"")
private let backslash = UInt8(ascii: "\\")

private let escapes: [UInt8: Unicode.Scalar] = [
    quote: "\"",
    backslash: "\\",
    UInt8(ascii: "/"): "/",
    UInt8(ascii: "b"): "\u{8}",
    UInt8(ascii: "f"): "\u{c}",
    UInt8(ascii: "n"): "\n",
    UInt8(ascii: "r"): "\r",
    UInt8(ascii: "t"): "\t",
]

/// Reads bytes and not characters: to Swift, a quote and the accent that follows it are one character.
struct JSONParser {
    let bytes: [UInt8]
    private var position = 0
    private var depth = 0

    init(bytes: [UInt8]) {
        self.bytes = bytes
    }

    mutating func document() throws -> JSON {
        let found = try value()
        skipWhiteSpace()
        if position < bytes.count { throw failure("one document") }
        return found
    }

    private mutating func value() throws -> JSON {
        skipWhiteSpace()
        switch try peek() {
        case UInt8(ascii: "{"): return .object(try nested { try $0.members() })
        case UInt8(ascii: "["): return .array(try nested { try $0.elements() })
        case quote: return .string(try string())
        case UInt8(ascii: "t"): return try word("true", .bool(true))
        case UInt8(ascii: "f"): return try word("false", .bool(false))
        case UInt8(ascii: "n"): return try word("null", .null)
        default: return try number()
        }
    }

    private mutating func nested<T>(_ read: (inout JSONParser) throws -> T) throws -> T {
        depth += 1
        if depth > maxDepth { throw failure("at most \(maxDepth) levels") }
        position += 1
        let found = try read(&self)
        depth -= 1
        return found
    }

    private mutating func members() throws -> JSONObject {
        var found = JSONObject()
        try separated(until: UInt8(ascii: "}")) { parser in
            parser.skipWhiteSpace()
            let name = try parser.string()
            parser.skipWhiteSpace()
            try parser.expect(UInt8(ascii: ":"))
            found[name] = try parser.value()
        }
        return found
    }

    private mutating func elements() throws -> [JSON] {
        var found: [JSON] = []
        try separated(until: UInt8(ascii: "]")) { found.append(try $0.value()) }
        return found
    }

    private mutating func separated(until end: UInt8, _ read: (inout JSONParser) throws -> Void) throws {
        skipWhiteSpace()
        if try peek() != end {
            while true {
                try read(&self)
                skipWhiteSpace()
                if try peek() == end { break }
                try expect(UInt8(ascii: ","))
            }
        }
        position += 1
    }

    private mutating func string() throws -> String {
        try expect(quote)
        var found: [UInt8] = []
        while true {
            let byte = try next()
            switch byte {
            case quote: return String(decoding: found, as: UTF8.self)
            case backslash: found += Array(String(try escape()).utf8)
            case 0..<0x20: throw failure("an escape for a control character")
            default: found.append(byte)
            }
        }
    }

    private mutating func escape() throws -> Unicode.Scalar {
        let byte = try next()
        if byte == UInt8(ascii: "u") { return try unicodeEscape() }
        guard let found = escapes[byte] else { throw failure("an escape") }
        return found
    }

    /// What follows `\u`; of half a surrogate pair remains what stands for a letter that nobody can read.
    private mutating func unicodeEscape() throws -> Unicode.Scalar {
        let first = try hexadecimal()
        if UTF16.isLeadSurrogate(first), bytes[position...].starts(with: "\\u".utf8) {
            let before = position
            position += 2
            let second = try hexadecimal()
            if UTF16.isTrailSurrogate(second) { return UTF16.decode(UTF16.EncodedScalar([first, second])) }
            position = before
        }
        return Unicode.Scalar(first) ?? "\u{fffd}"
    }

    private mutating func hexadecimal() throws -> UInt16 {
        var found: UInt16 = 0
        for _ in 0..<4 {
            guard let digit = Character(Unicode.Scalar(try next())).hexDigitValue else {
                throw failure("four hexadecimal digits")
            }
            found = found << 4 | UInt16(digit)
        }
        return found
    }

    private mutating func number() throws -> JSON {
        let begin = position
        if byte(at: position) == UInt8(ascii: "-") { position += 1 }
        guard digits ~= byte(at: position) else { throw failure("a value") }
        if byte(at: position) == UInt8(ascii: "0") { position += 1 } else { skipDigits() }
        let isFraction = skipFraction()
        let isInteger = !skipExponent() && !isFraction
        let text = String(decoding: bytes[begin..<position], as: UTF8.self)
        if isInteger, let found = Int(text) { return .integer(found) }
        guard let found = Double(text) else { throw failure("a number") }
        return .number(found)
    }

    private mutating func skipFraction() -> Bool {
        guard byte(at: position) == UInt8(ascii: "."), digits ~= byte(at: position + 1) else { return false }
        position += 1
        skipDigits()
        return true
    }

    private mutating func skipExponent() -> Bool {
        guard "eE".utf8.contains(byte(at: position)) else { return false }
        let sign = "+-".utf8.contains(byte(at: position + 1)) ? 1 : 0
        guard digits ~= byte(at: position + 1 + sign) else { return false }
        position += 1 + sign
        skipDigits()
        return true
    }

    private mutating func skipDigits() {
        while digits ~= byte(at: position) { position += 1 }
    }

    private mutating func word(_ word: String, _ meaning: JSON) throws -> JSON {
        guard bytes[position...].starts(with: word.utf8) else { throw failure("a value") }
        position += word.utf8.count
        return meaning
    }

    private mutating func skipWhiteSpace() {
        while whiteSpace.contains(byte(at: position)) { position += 1 }
    }

    /// 0, which no JSON has outside of its strings, behind the end.
    private func byte(at index: Int) -> UInt8 {
        index < bytes.count ? bytes[index] : 0
    }

    private func peek() throws -> UInt8 {
        guard position < bytes.count else { throw failure("more text") }
        return bytes[position]
    }

    private mutating func next() throws -> UInt8 {
        let found = try peek()
        position += 1
        return found
    }

    private mutating func expect(_ byte: UInt8) throws {
        if try next() != byte { throw failure("'\(Character(Unicode.Scalar(byte)))'") }
    }

    private func failure(_ expected: String) -> JSONError {
        JSONError(message: "expected \(expected) at \(position)")
    }
}
