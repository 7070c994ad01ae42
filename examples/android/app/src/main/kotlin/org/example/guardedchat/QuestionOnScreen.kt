package org.example.guardedchat

import android.content.Context
import android.widget.TextView
import org.example.guardedchat.core.chat.Answer
import org.example.guardedchat.core.chat.ChatListener
import org.example.guardedchat.core.chat.End
import org.example.guardedchat.core.chat.Outcome
import org.example.guardedchat.core.guard.Verdict
import org.example.guardedchat.core.guard.VerdictKind

/** Shows one question while it is judged and answered. */
class QuestionOnScreen(
    private val context: Context,
    private val worker: Worker,
    private val transcript: Transcript,
    private val status: TextView,
    text: String,
) : ChatListener {
    private val begunReply = lazy { transcript.answer() }
    private val reply by begunReply

    init {
        transcript.question(text)
        status.setText(R.string.loading)
    }

    override fun onQuestionJudged(verdict: Verdict) =
        worker.show {
            transcript.note(describe(verdict))
            status.setText(R.string.reading)
        }

    override fun onAnswerGrew(answer: Answer) =
        worker.show {
            reply.text = answer.text
            status.text = speed(answer)
            transcript.follow()
        }

    override fun onAnswerJudged(verdict: Verdict) = worker.show { transcript.note(describe(verdict)) }

    /** Shows what came of it in the end. */
    fun finish(outcome: Outcome) {
        when (outcome) {
            is Outcome.Answered -> {
                transcript.note(listOfNotNull(speed(outcome.answer), ending(outcome.answer.end)).joinToString(" "))
            }

            Outcome.Withheld -> {
                reply.setText(R.string.withheld)
            }

            Outcome.Refused -> {
                transcript.note(context.getString(R.string.refused))
            }

            Outcome.Stopped -> {
                transcript.note(context.getString(R.string.stopped))
            }
        }
    }

    /** Shows that it could not be answered; what there is of an answer was not judged and does not stay. */
    fun fail(message: String) {
        if (begunReply.isInitialized()) reply.setText(R.string.withheld)
        transcript.note(message)
    }

    private fun speed(answer: Answer): String =
        context.getString(R.string.speed, answer.tokens, answer.tokensPerSecond ?: 0.0)

    private fun ending(end: End?): String? =
        when (end) {
            End.STOPPED -> context.getString(R.string.stopped)
            End.FULL -> context.getString(R.string.full)
            End.FINISHED, null -> null
        }

    private fun describe(verdict: Verdict): String =
        when (verdict.kind) {
            VerdictKind.SAFE -> {
                context.getString(R.string.safe)
            }

            VerdictKind.UNSAFE -> {
                val hazards = verdict.categories.joinToString { "${it.code} ${it.name}" }
                context.getString(R.string.unsafe, hazards)
            }

            VerdictKind.UNCLEAR -> {
                context.getString(R.string.unclear)
            }
        }
}
