import XCTest

@testable import GuardedChatCore

final class JSONTests: XCTestCase {
    func testValuesOfEveryKind() throws {
        let values: [JSON] = [.integer(1), .number(-2.5), .number(1000), .bool(true), .bool(false), .null, .string("")]
        XCTAssertEqual(try JSON.parse(#" [1, -2.5, 1e3, true, false, null, ""] "#), .array(values))
        let nested = try JSON.parse(#"{"a": {"b": {}}, "c": [[]]}"#).object
        XCTAssertEqual(nested?["a"]?.object?["b"], .object(JSONObject()))
        XCTAssertEqual(nested?["c"], .array([.array([])]))
        XCTAssertEqual(nested?.names, ["a", "c"])
    }

    func testEscapesAndLettersOfOtherScripts() throws {
        XCTAssertEqual(try text(#" "\" \\ \/ \b \f \n \r \t" "#), Bytes("\" \\ / \u{8} \u{c} \n \r \t"))
        XCTAssertEqual(try text(#" "\u00e9 \ud83d\uDE42 東" "#), Bytes("\u{e9} 🙂 東"))
        XCTAssertEqual(try text(#" "\ud83d \ude42 \ud83d\u0041" "#), Bytes("\u{fffd} \u{fffd} \u{fffd}A"))
    }

    func testAnAccentBehindAQuoteIsAnAccentInTheText() throws {
        XCTAssertEqual(try text("\"\u{301}\""), Bytes("\u{301}"))
    }

    func testAnIntegerThatDoesNotFitIsANumberAllTheSame() throws {
        XCTAssertEqual(try JSON.parse("9223372036854775807"), .integer(.max))
        XCTAssertEqual(try JSON.parse("9223372036854775808"), .number(9_223_372_036_854_775_808))
    }

    func testTheLastOfTwoFieldsOfTheSameNameCounts() throws {
        let found = try JSON.parse(#"{"a": 1, "b": 0, "a": 2}"#).object
        XCTAssertEqual(found?["a"], .integer(2))
        XCTAssertEqual(found?.names, ["a", "b"])
    }

    func testWhatIsNoJSON() {
        let cutOff = ["", " ", "{", "[1", "\"", "\"\\", "tru", "-", "1.", "1e"]
        let wrong = ["[1 2]", "[,]", "[1,]", "{\"a\"}", "{1: 2}", "nulll", ".5", "+1", "01", "NaN", "\u{a0}1"]
        for text in cutOff + wrong { XCTAssertThrowsError(try JSON.parse(text), text) }
    }

    func testWhatIsNestedTooDeepIsRefusedBeforeTheStackEnds() {
        XCTAssertThrowsError(try JSON.parse(String(repeating: "[", count: 1_000_000)))
    }

    private func text(_ json: String) throws -> Bytes {
        Bytes(try XCTUnwrap(try JSON.parse(json).string))
    }
}
