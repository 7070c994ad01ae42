import Foundation
import XCTest

@testable import GuardedChatCore

final class BundleVectorsTests: XCTestCase {
    private func compare(_ kind: String, job: (Case) throws -> Void) throws {
        try Vectors("bundles").compare(kind, expected: \.message, find: { item in try message { try job(item) } })
    }

    func testWhatIsWrongWithADocumentIsSaidInTheSameWords() throws {
        try compare("documents") { _ = try BundleDocument.parse($0.text("text")) }
    }

    func testWhatIsWrongWithAnArchiveIsSaidInTheSameWords() throws {
        let folder = try scratch(for: self)
        try compare("archives") { item in
            let unpacked = folder.appendingPathComponent(UUID().uuidString)
            let stored = try unpack(archive(of: item), into: unpacked)
            try checkFiles(ModelBundle(folder: unpacked).document.files) { stored[$0] }
        }
    }

    func testAnotherRuntimeIsRefusedInTheSameWords() throws {
        try compare("runtimes") { item in
            let (needed, found) = (try item.object("needed"), try item.object("found"))
            let versions = found.names.compactMap { name in found[name]?.string.map { (name, $0) } }
            try checkRuntimes(
                needed.names.map { RuntimeVersion(name: $0, version: try XCTUnwrap(needed[$0]?.string)) },
                found: Dictionary(uniqueKeysWithValues: versions)
            )
        }
    }

    func testAnotherAnswerIsRefusedInTheSameWords() throws {
        try compare("golden") { item in
            let (expected, found) = (try answers(item, "expected"), try answers(item, "found"))
            let golden = expected.enumerated().map { GoldenAnswer(promptIDs: [$0], answerIDs: $1) }
            try checkGolden(golden) { prompt, _ in found[prompt[0]] }
        }
    }

    private func answers(_ item: Case, _ name: String) throws -> [[Int]] {
        try item.array(name).map { try XCTUnwrap($0.array).map { try XCTUnwrap($0.integer) } }
    }
}
