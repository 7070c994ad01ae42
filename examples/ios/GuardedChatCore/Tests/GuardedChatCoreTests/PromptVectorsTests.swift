import Foundation
import XCTest

@testable import GuardedChatCore

final class PromptVectorsTests: XCTestCase {
    private let zone = TimeZone(identifier: "UTC")!

    private func now(_ vectors: Vectors) throws -> Date {
        try XCTUnwrap(ISO8601DateFormatter().date(from: try XCTUnwrap(vectors["now"]?.string) + "Z"))
    }

    func testPromptsAreWhatTheChatTemplatesMake() throws {
        let vectors = try Vectors("prompts")
        let formats = try XCTUnwrap(vectors["formats"]?.object)
        let now = try now(vectors)
        func render(_ item: Case) throws -> Bytes {
            let format = PromptFormat(fields: try XCTUnwrap(formats[try item.text("format")]?.object))
            let system = item.fields["system"]?.string
            return Bytes(format.render(system: system, turns: try item.texts("turns"), now: now, in: zone))
        }
        try vectors.compare("prompts", expected: { Bytes(try $0.text("prompt")) }, find: render)
    }

    func testDatesAreSpelledAsPythonSpellsThem() throws {
        let vectors = try Vectors("prompts")
        let now = try now(vectors)
        try vectors.compare(
            "dates",
            expected: { Bytes(try $0.text("text")) },
            find: { Bytes(strftime(try $0.text("format"), now, in: zone)) }
        )
    }
}
