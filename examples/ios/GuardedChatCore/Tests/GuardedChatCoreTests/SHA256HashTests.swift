import XCTest

@testable import GuardedChatCore

final class SHA256HashTests: XCTestCase {
    private func hash(_ pieces: [String]) -> String {
        var hash = SHA256Hash()
        for piece in pieces { hash.update(ArraySlice(piece.utf8)) }
        return hash.hexadecimal()
    }

    /// The messages of FIPS 180-2, appendix B, and the empty one.
    func testMessagesOfTheStandard() {
        XCTAssertEqual(hash([]), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        XCTAssertEqual(hash(["abc"]), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        let long = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"
        XCTAssertEqual(hash([long]), "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1")
    }

    func testPiecesAreOneMessage() {
        let message = String(repeating: "abcdefgh", count: 40)
        for count in [1, 55, 56, 63, 64, 65, 128] {
            XCTAssertEqual(hash([String(message.prefix(count)), String(message.dropFirst(count))]), hash([message]))
        }
    }
}
