/// Makes texts of the bytes of tokens, for runtimes that hand out bytes: a letter may be spread over several tokens.
public struct PieceDecoder {
    private var waiting: [UInt8] = []

    public init() {}

    /// The text of a token, with what waited of those before; empty while a letter is not complete.
    public mutating func decode(_ bytes: [UInt8]) -> String {
        waiting += bytes
        let complete = waiting.count - Self.incompleteLength(of: waiting)
        defer { waiting.removeFirst(complete) }
        return String(decoding: waiting[..<complete], as: UTF8.self)
    }

    /// How many bytes at the end begin a letter that needs more of them; what is no UTF-8 begins none.
    private static func incompleteLength(of bytes: [UInt8]) -> Int {
        for length in 1...3 where length <= bytes.count {
            let byte = bytes[bytes.count - length]
            if byte & 0b1100_0000 == 0b1000_0000 { continue }
            return length < letterLength(beginningWith: byte) ? length : 0
        }
        return 0
    }

    private static func letterLength(beginningWith byte: UInt8) -> Int {
        switch byte {
        case 0xc2...0xdf: 2
        case 0xe0...0xef: 3
        case 0xf0...0xf4: 4
        default: 1
        }
    }
}
