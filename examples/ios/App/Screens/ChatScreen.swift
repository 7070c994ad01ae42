import SwiftUI
import UniformTypeIdentifiers

/// The chat, and a menu with everything else.
struct ChatScreen: View {
    @State var chat: ChatModel
    @State var selfTest: SelfTestModel

    @State private var question = ""
    @State private var picks = false
    @State private var picked = Role.chat
    @State private var tests = false

    var body: some View {
        NavigationStack {
            VStack(spacing: 0) {
                Text(chat.status)
                    .font(.footnote)
                    .frame(maxWidth: .infinity, alignment: .leading)
                    .padding(8)
                TranscriptView(transcript: chat.transcript)
                questionBar
            }
            .navigationTitle("Guarded Chat")
            .navigationBarTitleDisplayMode(.inline)
            .toolbar { menu }
            .navigationDestination(isPresented: $tests) { SelfTestScreen(model: selfTest) }
        }
        // Archives have no type that all file providers agree on.
        .fileImporter(isPresented: $picks, allowedContentTypes: [.data]) { result in
            if case .success(let file) = result { Task { await take(file) } }
        }
        .task { await chat.showModels() }
    }

    private var questionBar: some View {
        HStack {
            TextField("Ask something", text: $question, axis: .vertical)
                .lineLimit(1...5)
                .textFieldStyle(.roundedBorder)
            if chat.answering == nil {
                Button("Send", action: send).disabled(chat.isBusy || trimmed.isEmpty)
            } else {
                Button("Stop") { chat.stop() }
            }
        }
        .padding(8)
    }

    private var menu: some View {
        Menu("Models", systemImage: "ellipsis.circle") {
            Button("New chat") { Task { await chat.newChat() } }
            Button("Import chat model") { pick(.chat) }
            Button("Import Llama Guard") { pick(.judge) }
            Button("Self-test") { tests = true }
        }
        .disabled(chat.isBusy)
    }

    private var trimmed: String {
        question.trimmingCharacters(in: .whitespacesAndNewlines)
    }

    private func send() {
        let text = trimmed
        question = ""
        Task { await chat.ask(text) }
    }

    private func pick(_ role: Role) {
        picked = role
        picks = true
    }

    private func take(_ file: URL) async {
        let isScoped = file.startAccessingSecurityScopedResource()
        await chat.replace(picked, with: file)
        if isScoped { file.stopAccessingSecurityScopedResource() }
    }
}
