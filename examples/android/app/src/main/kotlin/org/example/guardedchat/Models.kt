package org.example.guardedchat

import org.example.guardedchat.core.bundle.Bundle
import org.example.guardedchat.core.bundle.BundleSlot
import org.example.guardedchat.core.chat.GuardedChat
import org.example.guardedchat.core.guard.Guard
import org.example.guardedchat.core.selftest.SelfTest
import java.io.Closeable
import java.io.File
import java.io.InputStream

/** What a model is for. */
enum class Role { CHAT, GUARD }

/** Meta's default for Llama 3 (`generation_config.json`). */
private const val CHAT_TEMPERATURE = 0.6f

private val RUNTIMES = mapOf("executorch" to BuildConfig.EXECUTORCH_VERSION)

/** The models of this app, on the disk and, once they are asked for, in memory; for the [Worker]'s thread. */
class Models(
    folder: File,
) {
    private val slots = Role.entries.associateWith { BundleSlot(File(folder, it.name.lowercase()), RUNTIMES) }
    private val loaded = ArrayList<Closeable>()
    private var chat: GuardedChat? = null

    /** The bundle for a role, or `null` if none was imported. */
    fun bundle(role: Role): Bundle? = slots.getValue(role).open()

    /** The conversation, its models loaded; `null` if there is no chat model. */
    fun chat(): GuardedChat? {
        if (chat == null) chat = bundle(Role.CHAT)?.let(::load)
        return chat
    }

    /** Takes a bundle in; see [BundleSlot.replace]. */
    fun replace(
        role: Role,
        archive: InputStream,
        onBytes: (Long) -> Unit,
    ): Bundle {
        unload()
        return slots.getValue(role).replace(archive, onBytes)
    }

    /** Tests a bundle; see [SelfTest.run]. */
    fun test(
        bundle: Bundle,
        onPassed: (SelfTest.Step) -> Unit,
    ) {
        // The test loads the model again, and a phone seldom has room for two of them.
        unload()
        SelfTest(RUNTIMES, ::ExecuTorchLogits).run(bundle, onPassed)
    }

    private fun load(bundle: Bundle): GuardedChat {
        val document = bundle.document
        val format =
            requireNotNull(document.promptFormat) {
                "The chat template of ${document.name} is more than text between messages: choose a chat model."
            }
        try {
            val guard = bundle(Role.GUARD)?.let(::loadGuard)
            val engine = ExecuTorchText(bundle, CHAT_TEMPERATURE).also(loaded::add)
            return GuardedChat(engine, format, document.contextLength, document.stopTokens, guard)
        } catch (error: RuntimeException) {
            unload()
            throw error
        }
    }

    private fun loadGuard(bundle: Bundle): Guard {
        val engine = ExecuTorchText(bundle, temperature = 0f).also(loaded::add)
        return Guard(engine, bundle.document.contextLength, bundle.document.stopTokens)
    }

    private fun unload() {
        chat = null
        loaded.forEach(Closeable::close)
        loaded.clear()
    }
}
