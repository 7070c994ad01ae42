import SwiftUI

/// What the self-test has found so far.
struct SelfTestScreen: View {
    let model: SelfTestModel

    var body: some View {
        ScrollView {
            Text(model.lines.joined(separator: "\n"))
                .textSelection(.enabled)
                .frame(maxWidth: .infinity, alignment: .leading)
                .padding()
        }
        .navigationTitle("Self-test")
        .task { await model.run() }
    }
}
