import Foundation
import GuardedChatCore
import Observation

/// What the chat screen shows, and what it asks for.
@MainActor
@Observable
final class ChatModel {
    private(set) var transcript = Transcript()
    private(set) var status = ""

    /// Whether something is being done, and the next thing would have to wait.
    private(set) var isBusy = false

    /// The conversation while a question is answered.
    private(set) var answering: GuardedChat?

    private let worker: Worker
    private let models: Models

    init(worker: Worker, models: Models) {
        self.worker = worker
        self.models = models
    }

    func ask(_ question: String) async {
        transcript.add(.question, question)
        status = "Loading …"
        await work {
            guard let chat = try await worker.run({ [models] in try models.chat() }) else {
                return transcript.add(.note, Wording.noModel)
            }
            answering = chat
            defer { answering = nil }
            try await answer(question, in: chat)
        }
    }

    func stop() {
        answering?.stop()
    }

    func newChat() async {
        await work {
            try await worker.run { [models] in try models.chat()?.clear() }
            transcript.clear()
        }
    }

    func replace(_ role: Role, with file: URL) async {
        await work {
            let (progress, continuation) = AsyncStream.makeStream(of: Int.self, bufferingPolicy: .bufferingNewest(1))
            async let done: Void = worker.run { [models] in
                defer { continuation.finish() }
                try models.replace(role, with: file) { continuation.yield($0) }
            }
            for await bytes in progress { status = Wording.importing(bytes: bytes) }
            try await done
            transcript.clear()
        }
    }

    /// The names of the models, and what their licences ask to be shown.
    func showModels() async {
        let documents = try? await worker.run { [models] in
            try Role.allCases.compactMap { try models.bundle(for: $0)?.document }
        }
        let names = (documents ?? []).map { "\($0.name) \($0.quant)" }.joined(separator: " + ")
        let notices = Set((documents ?? []).map(\.notice)).subtracting([""]).sorted()
        status = ([names.isEmpty ? Wording.noModel : names] + notices).joined(separator: " · ")
    }

    private func answer(_ question: String, in chat: GuardedChat) async throws {
        let (events, continuation) = AsyncStream.makeStream(of: ChatEvent.self)
        async let outcome = worker.run {
            defer { continuation.finish() }
            return try chat.ask(question) { continuation.yield($0) }
        }
        for await event in events { show(event) }
        show(try await outcome)
    }

    private func show(_ event: ChatEvent) {
        switch event {
        case .questionJudged(let verdict):
            transcript.add(.note, verdict.wording)
            status = "Reading …"
        case .answerGrew(let answer):
            transcript.show(answer: answer.text)
            status = Wording.speed(answer)
        case .answerJudged(let verdict):
            transcript.add(.note, verdict.wording)
        }
    }

    private func show(_ outcome: Outcome) {
        switch outcome {
        case .answered(let answer):
            let words = [Wording.speed(answer), answer.end?.wording].compactMap { $0 }
            transcript.add(.note, words.joined(separator: " "))
        case .withheld: transcript.withhold(Wording.withheld)
        case .refused: transcript.add(.note, Wording.refused)
        case .stopped: transcript.add(.note, Wording.stopped)
        }
    }

    /// Does something and shows what goes wrong; what there is of an answer then was not judged and does not stay.
    private func work(_ job: () async throws -> Void) async {
        isBusy = true
        do {
            try await job()
        } catch {
            transcript.withhold(Wording.withheld)
            transcript.add(.note, error.localizedDescription)
        }
        isBusy = false
        await showModels()
    }
}
