import Foundation
import XCTest

@testable import GuardedChatCore

final class BundleSlotTests: XCTestCase {
    private var folder: URL!
    private var slot: BundleSlot!

    override func setUpWithError() throws {
        folder = try scratch(for: self)
        slot = slot(runtimes: ["executorch": "1.4.0"])
    }

    private func slot(runtimes: [String: String]) -> BundleSlot {
        BundleSlot(folder: folder.appendingPathComponent("chat"), runtimes: runtimes)
    }

    func testItBeginsEmpty() throws {
        XCTAssertNil(try slot.open())
    }

    func testABundleThatComesInStays() throws {
        var bytes: [Int] = []
        _ = try slot.replace(with: archive("as the exporter writes it")) { bytes.append($0) }
        let bundle = try XCTUnwrap(try slot.open())
        XCTAssertEqual(bundle.document.name, "tiny")
        XCTAssertEqual(try String(contentsOf: bundle.program, encoding: .utf8), "program")
        XCTAssertEqual(try String(contentsOf: bundle.tokenizer, encoding: .utf8), "{}")
        XCTAssertEqual(bytes, bytes.sorted())
        XCTAssertGreaterThan(try XCTUnwrap(bytes.last), "program{}".count)
    }

    func testOneThatIsRefusedLeavesTheOneBeforeAndNothingElse() throws {
        _ = try slot.replace(with: archive("as the exporter writes it"))
        for about in ["another byte", "a file too few", "cut off in a file", "no archive"] {
            XCTAssertThrowsError(try slot.replace(with: archive(about)), about) { XCTAssertTrue($0 is BundleProblem) }
            let program = try XCTUnwrap(try slot.open()).program
            XCTAssertEqual(try String(contentsOf: program, encoding: .utf8), "program")
            XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: folder.path), ["chat"])
        }
    }

    func testOneForAnotherRuntimeIsRefused() throws {
        let other = slot(runtimes: ["executorch": "1.3.0"])
        let said = try message { _ = try other.replace(with: archive("as the exporter writes it")) }
        XCTAssertEqual(said, Bytes("the bundle needs executorch 1.4.0, here is 1.3.0"))
        XCTAssertNil(try slot.open())
    }

    func testSpecialTokensAreThoseThatTheBundleLists() throws {
        let bundle = try slot.replace(with: archive("as the exporter writes it"))
        XCTAssertEqual(bundle.specialTokens, [])
        let runtime = bundle.program.deletingLastPathComponent().appendingPathComponent("runtime.json")
        try Data(#"{"special_tokens": ["<|begin_of_text|>", "<|eot_id|>"]}"#.utf8).write(to: runtime)
        XCTAssertEqual(bundle.specialTokens, ["<|begin_of_text|>", "<|eot_id|>"])
    }

    func testPathsAreReadAsTheFileSystemReadsThem() {
        XCTAssertTrue(staysInside("a..b/..c"))
        // To Swift, the slash and the accent that follows it are one character.
        XCTAssertFalse(staysInside("../\u{301}outside"))
        XCTAssertFalse(staysInside("a/../\u{301}outside"))
    }
}
