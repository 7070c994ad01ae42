import XCTest

@testable import GuardedChatCore

final class BudgetVectorsTests: XCTestCase {
    /// What becomes of a conversation.
    private enum Result: Equatable {
        case plan(TokenPlan)
        case refusal(Bytes)
    }

    func testOldExchangesMakeRoomForTheAnswer() throws {
        try Vectors("budgets").compare("plans", expected: expected, find: plan)
    }

    func testATextHasNoMoreTokensThanBytes() throws {
        try Vectors("budgets").compare(
            "tokens_at_most",
            expected: { try $0.integer("tokens") },
            find: { tokensAtMost(try $0.text("text")) }
        )
    }

    private func plan(_ item: Case) throws -> Result {
        let (length, answer) = (try item.integer("context_length"), try item.integer("answer_tokens"))
        let budget = TokenBudget(contextLength: length, answerTokens: answer)
        do {
            return .plan(try budget.plan(frame: item.integer("frame"), turns: item.integers("turns")))
        } catch let refusal as TooLong {
            return .refusal(Bytes(refusal.message))
        }
    }

    private func expected(_ item: Case) throws -> Result {
        if let message = item.message { return .refusal(message) }
        return .plan(TokenPlan(dropped: try item.integer("dropped"), maxNewTokens: try item.integer("max_new_tokens")))
    }
}
