import XCTest

@testable import GuardedChatCore

final class AnswerStreamTests: XCTestCase {
    private var isStopped = false
    private var time = 0.0
    private lazy var stream = AnswerStream(
        stopTokens: ["<|eot_id|>", "</s>"],
        maxTokens: 3,
        isStopped: { self.isStopped },
        clock: { self.time }
    )

    func testPiecesBecomeTextUntilTheModelEndsItsAnswer() {
        XCTAssertTrue(stream.accept("Hel"))
        XCTAssertTrue(stream.accept("lo"))
        XCTAssertNil(stream.answer.end)
        XCTAssertFalse(stream.accept("<|eot_id|>"))
        XCTAssertEqual(stream.answer.text, "Hello")
        XCTAssertEqual(stream.answer.end, .finished)
    }

    func testTheCapHoldsAlthoughTheRunnerKnowsNone() {
        XCTAssertEqual(["a", "b", "c"].map(stream.accept), [true, true, false])
        XCTAssertEqual(stream.answer.text, "abc")
        XCTAssertEqual(stream.answer.end, .full)
    }

    func testStopEndsItAtTheNextToken() {
        _ = stream.accept("a")
        isStopped = true
        XCTAssertFalse(stream.accept("b"))
        XCTAssertEqual(stream.answer.text, "a")
        XCTAssertEqual(stream.answer.end, .stopped)
    }

    func testItSaysNoAgainToARunnerThatDoesNotListen() {
        XCTAssertEqual(["</s>", "more", "and more"].map(stream.accept), [false, false, false])
        XCTAssertEqual(stream.answer.text, "")
        XCTAssertEqual(stream.answer.end, .finished)
    }

    func testARunnerThatReturnsByItselfHadNoRoom() {
        _ = stream.accept("a")
        XCTAssertEqual(stream.finish().end, .full)
    }

    func testSpeedCountsFromTheFirstTokenOn() throws {
        time = 5
        _ = stream.accept("a")
        XCTAssertNil(stream.answer.tokensPerSecond)
        time = 5.1
        _ = stream.accept("b")
        time = 5.4
        _ = stream.accept("c")
        XCTAssertEqual(try XCTUnwrap(stream.answer.tokensPerSecond), 5, accuracy: 1e-9)
    }
}
