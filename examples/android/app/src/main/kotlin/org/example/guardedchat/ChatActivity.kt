package org.example.guardedchat

import android.app.Activity
import android.content.Intent
import android.net.Uri
import android.os.Bundle
import android.view.Menu
import android.view.MenuItem
import android.widget.Button
import android.widget.EditText
import android.widget.TextView
import org.example.guardedchat.core.chat.ChatListener
import org.example.guardedchat.core.chat.GuardedChat
import org.example.guardedchat.core.chat.Outcome
import java.io.IOException

/** The chat, and a menu with everything else. */
class ChatActivity : Activity() {
    private val worker get() = (application as GuardedChatApp).worker
    private val models get() = (application as GuardedChatApp).models

    private val status by lazy { findViewById<TextView>(R.id.status) }
    private val question by lazy { findViewById<EditText>(R.id.question) }
    private val send by lazy { findViewById<Button>(R.id.send) }
    private val transcript by lazy { Transcript(findViewById(R.id.scroll), findViewById(R.id.transcript)) }

    /** The conversation while a question is answered. */
    @Volatile
    private var answering: GuardedChat? = null

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.chat)
        send.setOnClickListener { answering?.stop() ?: ask(question.text.toString().trim()) }
        showModels()
    }

    override fun onCreateOptionsMenu(menu: Menu): Boolean {
        menuInflater.inflate(R.menu.chat, menu)
        return true
    }

    override fun onOptionsItemSelected(item: MenuItem): Boolean {
        when (item.itemId) {
            R.id.new_chat -> work({ models.chat()?.clear() }) { transcript.clear() }
            R.id.import_chat -> pick(Role.CHAT)
            R.id.import_guard -> pick(Role.GUARD)
            R.id.self_test -> startActivity(Intent(this, SelfTestActivity::class.java))
            else -> return super.onOptionsItemSelected(item)
        }
        return true
    }

    override fun onActivityResult(
        requestCode: Int,
        resultCode: Int,
        data: Intent?,
    ) {
        super.onActivityResult(requestCode, resultCode, data)
        val picked = data?.data
        if (resultCode == RESULT_OK && picked != null) import(Role.entries[requestCode], picked)
    }

    private fun ask(text: String) {
        if (text == "") return
        question.text.clear()
        send.setText(R.string.stop)
        val screen = QuestionOnScreen(this, worker, transcript, status, text)
        work({ answer(text, screen) }, screen::fail) { outcome ->
            if (outcome == null) screen.fail(getString(R.string.no_model)) else screen.finish(outcome)
        }
    }

    /** `null` if there is no chat model. */
    private fun answer(
        text: String,
        listener: ChatListener,
    ): Outcome? {
        val chat = models.chat() ?: return null
        answering = chat
        try {
            return chat.ask(text, listener)
        } finally {
            answering = null
        }
    }

    private fun pick(role: Role) {
        // Archives have no MIME type that all file managers agree on.
        val picker = Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("*/*")
        startActivityForResult(picker, role.ordinal)
    }

    private fun import(
        role: Role,
        uri: Uri,
    ) {
        var shown = -1L
        val showProgress = { bytes: Long ->
            val megabytes = bytes / BYTES_PER_MEGABYTE
            if (megabytes > shown) worker.show { status.text = getString(R.string.importing, megabytes) }
            shown = megabytes
        }
        val job = {
            val input = contentResolver.openInputStream(uri) ?: throw IOException("$uri cannot be opened")
            input.use { models.replace(role, it, showProgress) }
        }
        work(job) { transcript.clear() }
    }

    /** Runs a job on the worker; [onFailed] shows what goes wrong. */
    private fun <T> work(
        job: () -> T,
        onFailed: (String) -> Unit = { transcript.note(it) },
        onDone: (T) -> Unit,
    ) {
        worker.run(job) { result ->
            send.setText(R.string.send)
            result.fold(onDone) { onFailed(it.message ?: it.toString()) }
            showModels()
        }
    }

    private fun showModels() {
        val job = { Role.entries.mapNotNull(models::bundle).map { it.document } }
        worker.run(job) { result ->
            val documents = result.getOrElse { emptyList() }
            val names = documents.joinToString(" + ") { "${it.name} ${it.quant}" }
            val notices = documents.map { it.notice }.filter { it != "" }.distinct()
            status.text = (listOf(names.ifEmpty { getString(R.string.no_model) }) + notices).joinToString(" · ")
        }
    }

    private companion object {
        const val BYTES_PER_MEGABYTE = 1_000_000
    }
}
