import Foundation

/// A model in a runtime. One call at a time, from any thread; a call returns when it is done.
public protocol ModelEngine: AnyObject {
    /// Tokens of prompt and answer together for which there is room.
    var contextLength: Int { get }

    /// Continues a prompt until the model ends its answer or `onPiece` returns false.
    ///
    /// - Parameters:
    ///   - prompt: Special tokens by their names.
    ///   - onPiece: Takes the text of each token, that of the token that ends the answer included.
    /// - Returns: What the runtime counted, if it did.
    func generate(_ prompt: String, onPiece: (String) -> Bool) throws -> TokenCounts?

    /// The logits of the last of some tokens, for all tokens of the vocabulary.
    ///
    /// - Parameters:
    ///   - ids: Tokens that follow those that were given before.
    ///   - position: How many these are; 0 begins anew.
    func logits(of ids: [Int], at position: Int) throws -> [Float]
}

/// What a runtime cannot do.
public struct EngineProblem: LocalizedError {
    public let message: String

    public var errorDescription: String? { message }

    public init(_ message: String) {
        self.message = message
    }
}

/// Tokens that a runtime has read and written.
public struct TokenCounts: Equatable {
    public let prompt: Int
    public let generated: Int

    public init(prompt: Int, generated: Int) {
        self.prompt = prompt
        self.generated = generated
    }
}
