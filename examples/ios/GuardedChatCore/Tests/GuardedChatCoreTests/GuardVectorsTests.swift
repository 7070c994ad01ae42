import XCTest

@testable import GuardedChatCore

final class GuardVectorsTests: XCTestCase {
    func testPromptsAreWhatLlamaGuardWasTrainedOn() throws {
        try Vectors("guard").compare(
            "prompts",
            expected: { Bytes(try $0.text("prompt")) },
            find: { Bytes(guardPrompt(try $0.texts("turns"))) }
        )
    }

    func testAnswersOfEveryKindBecomeVerdicts() throws {
        try Vectors("guard").compare("verdicts", expected: verdict, find: { Verdict.parse(try $0.text("answer")) })
    }

    func testHazardsHaveTheNamesThatOtherAppsShow() throws {
        let vectors = try Vectors("guard")
        let expected = try XCTUnwrap(vectors["hazards"]?.object)
        XCTAssertEqual(hazards.map(\.code), expected.names)
        XCTAssertEqual(hazards.map(\.name), expected.names.map { expected[$0]?.string })
        XCTAssertEqual(verdictTokens, vectors["verdict_tokens"]?.integer)
    }

    func testAnAccentDoesNotMakeAnotherAnswerSafe() {
        XCTAssertEqual(Verdict.parse("safe\u{301}"), Verdict(.unclear))
    }

    private func verdict(_ item: Case) throws -> Verdict {
        let categories = try item.array("categories").map { category in
            let (code, name) = (category.object?["code"]?.string, category.object?["name"]?.string)
            return Hazard(code: try XCTUnwrap(code), name: try XCTUnwrap(name))
        }
        return Verdict(try XCTUnwrap(VerdictKind(rawValue: try item.text("kind"))), categories)
    }
}
