package org.example.guardedchat

import android.app.Activity
import android.os.Bundle
import android.widget.TextView
import org.example.guardedchat.core.selftest.SelfTest

/** Tests every imported model: its files, the runtime's version, its golden answers. */
class SelfTestActivity : Activity() {
    private val worker get() = (application as GuardedChatApp).worker
    private val models get() = (application as GuardedChatApp).models

    private val report by lazy { findViewById<TextView>(R.id.report) }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.self_test)
        report.setText(R.string.testing)
        for (role in Role.entries) {
            worker.run({ test(role) }) { result -> result.onFailure { tell(getString(R.string.failed, it.message)) } }
        }
        worker.run({}) { tell(getString(R.string.tested)) }
    }

    private fun test(role: Role) {
        val bundle = models.bundle(role) ?: return
        worker.show { tell("\n${bundle.document.name} ${bundle.document.quant}") }
        models.test(bundle) { step -> worker.show { tell(getString(PASSED.getValue(step))) } }
    }

    private fun tell(line: String) = report.append("\n$line")

    private companion object {
        val PASSED =
            mapOf(
                SelfTest.Step.FILES to R.string.passed_files,
                SelfTest.Step.RUNTIME to R.string.passed_runtime,
                SelfTest.Step.GOLDEN_ANSWERS to R.string.passed_golden,
            )
    }
}
