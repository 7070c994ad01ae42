/// A JSON value (RFC 8259). A number is an integer if it is written as one that fits.
///
/// Foundation's `JSONSerialization` would do, but tells numbers from booleans only by their class on Apple's systems, and
/// forgets the order of fields.
public enum JSON: Equatable {
    case null
    case bool(Bool)
    case integer(Int)
    case number(Double)
    case string(String)
    case array([JSON])
    case object(JSONObject)

    /// - Throws: ``JSONError`` if it is no JSON, or more than one document.
    public static func parse(_ text: String) throws -> JSON {
        var parser = JSONParser(bytes: Array(text.utf8))
        return try parser.document()
    }

    public var string: String? {
        if case .string(let value) = self { value } else { nil }
    }

    public var integer: Int? {
        if case .integer(let value) = self { value } else { nil }
    }

    public var bool: Bool? {
        if case .bool(let value) = self { value } else { nil }
    }

    public var array: [JSON]? {
        if case .array(let value) = self { value } else { nil }
    }

    public var object: JSONObject? {
        if case .object(let value) = self { value } else { nil }
    }
}

/// The fields of a JSON object, in their order; of two of the same name the last counts.
public struct JSONObject: Equatable {
    public private(set) var names: [String] = []
    private var values: [String: JSON] = [:]

    public subscript(name: String) -> JSON? {
        get { values[name] }
        set {
            if values[name] == nil { names.append(name) }
            values[name] = newValue
        }
    }
}

/// A text that is not JSON.
public struct JSONError: Error {
    public let message: String
}
