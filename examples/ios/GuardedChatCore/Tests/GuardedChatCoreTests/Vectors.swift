import Foundation
import XCTest

@testable import GuardedChatCore

/// Cases that the exporter has made (`tests/vectors/` in its repository), on which all languages must agree.
struct Vectors {
    private let document: JSONObject

    init(_ name: String) throws {
        let folder = try XCTUnwrap(ProcessInfo.processInfo.environment["VECTORS"] ?? Self.inRepository)
        let file = URL(fileURLWithPath: folder).appendingPathComponent("\(name).json")
        document = try XCTUnwrap(try JSON.parse(String(contentsOf: file, encoding: .utf8)).object)
    }

    /// Found from where this file was compiled.
    private static var inRepository: String? {
        sequence(first: URL(fileURLWithPath: #filePath)) { $0.path == "/" ? nil : $0.deletingLastPathComponent() }
            .map { $0.appendingPathComponent("tests/vectors").path }
            .first { FileManager.default.fileExists(atPath: $0) }
    }

    /// A value beside the cases.
    subscript(name: String) -> JSON? { document[name] }

    func cases(_ kind: String) throws -> [Case] {
        try XCTUnwrap(document[kind]?.array).map { Case(fields: try XCTUnwrap($0.object)) }
    }

    /// Compares what `find` makes of each case with what is `expected` of it, and names those that differ.
    func compare<T: Equatable>(_ kind: String, expected: (Case) throws -> T, find: (Case) throws -> T) throws {
        let cases = try cases(kind)
        XCTAssertFalse(cases.isEmpty, "there are no cases")
        for item in cases { XCTAssertEqual(try find(item), try expected(item), item.about) }
    }
}

/// One case; a test that asks for another type than a field has throws, as it should.
struct Case {
    let fields: JSONObject

    var about: String { fields["about"]?.string ?? "\(fields)" }

    func text(_ name: String) throws -> String { try XCTUnwrap(fields[name]?.string) }

    func integer(_ name: String) throws -> Int { try XCTUnwrap(fields[name]?.integer) }

    func integers(_ name: String) throws -> [Int] { try array(name).map { try XCTUnwrap($0.integer) } }

    func texts(_ name: String) throws -> [String] { try array(name).map { try XCTUnwrap($0.string) } }

    func array(_ name: String) throws -> [JSON] { try XCTUnwrap(fields[name]?.array) }

    func object(_ name: String) throws -> JSONObject { try XCTUnwrap(fields[name]?.object) }

    /// What is said if something is wrong, byte for byte.
    var message: Bytes? { fields["message"]?.string.map(Bytes.init) }
}

/// A text that equals another one byte for byte; to Swift, texts are equal that Unicode calls equivalent.
struct Bytes: Equatable, CustomStringConvertible {
    let description: String

    init(_ text: String) { description = text }

    static func == (left: Bytes, right: Bytes) -> Bool { left.description.utf8.elementsEqual(right.description.utf8) }
}

/// The message of the problem that a job throws, `nil` if it throws nothing.
func message(of job: () throws -> Void) throws -> Bytes? {
    do {
        try job()
        return nil
    } catch let problem as BundleProblem {
        return Bytes(problem.message)
    }
}

/// A folder of its own for each test.
func scratch(for test: XCTestCase) throws -> URL {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    test.addTeardownBlock { try? FileManager.default.removeItem(at: folder) }
    return folder
}

/// An archive of the vectors.
func archive(_ about: String) throws -> ByteStream {
    let item = try XCTUnwrap(try Vectors("bundles").cases("archives").first { $0.about == about })
    return try archive(of: item)
}

func archive(of item: Case) throws -> ByteStream {
    ByteStream(try XCTUnwrap(Data(base64Encoded: item.text("base64"))))
}
