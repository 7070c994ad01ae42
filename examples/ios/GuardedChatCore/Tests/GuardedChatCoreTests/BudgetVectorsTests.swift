import XCTest

@testable import GuardedChatCore

final class BudgetVectorsTests: XCTestCase {
    /// What becomes of a conversation.
    private enum Result: Equatable {
        case plan(TokenPlan)
        case refusal(Bytes)
    }

    func testOldExchangesMakeRoomForTheAnswer() throws {
        try Vectors("budgets").compare("plans", expected: expected) { item in
            let budget = TokenBudget(
                contextLength: try item.integer("context_length"), answerTokens: try item.integer("answer_tokens"))
            do {
                return .plan(try budget.plan(frame: item.integer("frame"), turns: item.integers("turns")))
            } catch let refusal as TooLong {
                return .refusal(Bytes(refusal.message))
            }
        }
    }

    func testATextHasNoMoreTokensThanBytes() throws {
        try Vectors("budgets").compare("tokens_at_most", expected: { try $0.integer("tokens") }) {
            tokensAtMost(try $0.text("text"))
        }
    }

    private func expected(_ item: Case) throws -> Result {
        if let message = item.message { return .refusal(message) }
        return .plan(TokenPlan(dropped: try item.integer("dropped"), maxNewTokens: try item.integer("max_new_tokens")))
    }
}
