import Foundation
import SwiftUI

@main
struct GuardedChatApp: App {
    private let worker = Worker()
    private let models = Models(folder: modelsFolder())

    var body: some Scene {
        WindowGroup {
            ChatScreen(
                chat: ChatModel(worker: worker, models: models),
                selfTest: SelfTestModel(worker: worker, models: models)
            )
        }
    }
}

/// Where models are kept: no backup takes gigabytes that anybody can import again.
private func modelsFolder() -> URL {
    var folder = URL.applicationSupportDirectory.appending(path: "Models")
    try? FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    var values = URLResourceValues()
    values.isExcludedFromBackup = true
    try? folder.setResourceValues(values)
    return folder
}
