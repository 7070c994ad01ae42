import SwiftUI

/// The conversation, which follows its last line.
struct TranscriptView: View {
    let transcript: Transcript

    var body: some View {
        ScrollViewReader { proxy in
            ScrollView {
                LazyVStack(spacing: 6) {
                    ForEach(transcript.entries) { entry in
                        EntryView(entry: entry).id(entry.id)
                    }
                }
                .padding(8)
            }
            .onChange(of: transcript.entries.last?.text) {
                if let last = transcript.entries.last { proxy.scrollTo(last.id, anchor: .bottom) }
            }
        }
    }
}

private struct EntryView: View {
    let entry: Transcript.Entry

    var body: some View {
        switch entry.kind {
        case .question:
            Text(entry.text).frame(maxWidth: .infinity, alignment: .trailing)
        case .answer:
            Text(entry.text).textSelection(.enabled).frame(maxWidth: .infinity, alignment: .leading)
        case .note:
            Text(entry.text).italic().foregroundStyle(.secondary).frame(maxWidth: .infinity, alignment: .leading)
        }
    }
}
