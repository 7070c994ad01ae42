import XCTest

@testable import GuardedChatCore

final class PieceDecoderTests: XCTestCase {
    private func decode(_ pieces: [[UInt8]]) -> [String] {
        var decoder = PieceDecoder()
        return pieces.map { decoder.decode($0) }
    }

    func testALetterWaitsForItsBytes() {
        let pieces: [[UInt8]] = [[0x61], [0xf0, 0x9f], [0x99], [0x82, 0x62], [0xc3], [0xa9]]
        XCTAssertEqual(decode(pieces), ["a", "", "", "🙂b", "", "é"])
    }

    func testWhatIsNoUTF8DoesNotWait() {
        XCTAssertEqual(decode([[0xff], [0x80, 0x80, 0x80, 0x80]]), ["\u{fffd}", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}"])
    }
}
