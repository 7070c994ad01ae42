// swift-tools-version:5.9
import PackageDescription

let package = Package(
    name: "GuardedChatCore",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [.library(name: "GuardedChatCore", targets: ["GuardedChatCore"])],
    targets: [
        .target(name: "GuardedChatCore"),
        .testTarget(name: "GuardedChatCoreTests", dependencies: ["GuardedChatCore"]),
    ]
)
