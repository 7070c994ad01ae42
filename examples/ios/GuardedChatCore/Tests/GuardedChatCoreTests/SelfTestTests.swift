import Foundation
import XCTest

@testable import GuardedChatCore

final class SelfTestTests: XCTestCase {
    private let runtimes = ["executorch": "1.4.0"]
    private var passed: [SelfTest.Step] = []
    private var bundle: ModelBundle!

    /// The vectors' golden answer: after 1 5 6 come 9 and 8.
    private let right = SuccessorEngine([6: [9], 9: [8], 8: [7]])

    override func setUpWithError() throws {
        let slot = BundleSlot(folder: try scratch(for: self).appendingPathComponent("chat"), runtimes: runtimes)
        bundle = try slot.replace(with: archive("as the exporter writes it"))
    }

    private func problem(engine: ModelEngine? = nil, runtimes: [String: String]? = nil) throws -> Bytes? {
        let test = SelfTest(runtimes: runtimes ?? self.runtimes) { _ in engine ?? self.right }
        return try message { try test.run(bundle) { passed.append($0) } }
    }

    func testABundleThatIsWholePasses() throws {
        XCTAssertNil(try problem())
        XCTAssertEqual(passed, SelfTest.Step.allCases)
        XCTAssertFalse(right.wasLost)
    }

    func testARuntimeThatComputesSomethingElseDoesNot() throws {
        let expected = "golden answer 1 differs: this runtime does not compute what was proved"
        XCTAssertEqual(try problem(engine: SuccessorEngine([6: [9], 9: [9]])), Bytes(expected))
        XCTAssertEqual(passed, [.files, .runtime])
    }

    func testNorOneOfAnotherVersion() throws {
        XCTAssertEqual(try problem(runtimes: [:]), Bytes("the bundle needs executorch 1.4.0, here is none"))
    }

    func testNorAFileThatHasChanged() throws {
        try Data("Program".utf8).write(to: bundle.program)
        XCTAssertEqual(try problem(), Bytes("executorch/model.pte is not the file that was bundled"))
        try FileManager.default.removeItem(at: bundle.program)
        XCTAssertEqual(try problem(), Bytes("executorch/model.pte is missing from the bundle"))
        XCTAssertEqual(passed, [])
    }

    func testAGreedyAnswerEndsWithAStopTokenOrWhenItIsLongEnough() throws {
        XCTAssertEqual(try right.greedy([1, 5, 6], count: 5, stopIDs: [7]), [9, 8])
        XCTAssertEqual(try right.greedy([1, 5, 6], count: 1, stopIDs: []), [9])
        XCTAssertEqual(try right.greedy([6], count: 0, stopIDs: []), [])
        XCTAssertFalse(right.wasLost)
    }

    func testOfTwoLikeliestTokensItTakesTheFirst() throws {
        XCTAssertEqual(try SuccessorEngine([0: [2, 1]]).greedy([0], count: 1, stopIDs: []), [1])
    }
}
