package org.example.guardedchat.core.chat

import org.example.guardedchat.core.guard.Guard
import org.example.guardedchat.core.guard.Verdict
import org.example.guardedchat.core.guard.VerdictKind
import java.time.LocalDateTime

/** Told what happens while a question is answered, in this order, by the thread that asks. */
interface ChatListener {
    fun onQuestionJudged(verdict: Verdict)

    fun onAnswerGrew(answer: Answer)

    fun onAnswerJudged(verdict: Verdict)
}

/** What became of a question. */
sealed interface Outcome {
    data class Answered(
        val answer: Answer,
    ) : Outcome

    /** The guard does not call the question safe; the chat model has not seen it. */
    data object Refused : Outcome

    /** The guard does not call the answer safe; it is not to be shown any longer. */
    data object Withheld : Outcome

    /** Stop was pressed before there was an answer. */
    data object Stopped : Outcome
}

/**
 * A conversation with a model under the eyes of a guard: it judges a question before the model reads it, and the answer
 * when it is complete. What it does not call safe is no part of the conversation.
 *
 * @param contextLength Of the chat model, in tokens.
 * @param stopTokens Of the chat model.
 * @param guard `null` to talk without one.
 */
class GuardedChat(
    private val engine: TextEngine,
    private val format: PromptFormat,
    contextLength: Int,
    private val stopTokens: Set<String>,
    private val guard: Guard?,
    private val now: () -> LocalDateTime = LocalDateTime::now,
    private val nanoTime: () -> Long = System::nanoTime,
) {
    private class Turn(
        val text: String,
        var tokens: Int,
    )

    private val turns = ArrayList<Turn>()
    private val budget = TokenBudget(contextLength, answerTokens = contextLength / 4)
    private val joint = maxOf(tokensAtMost(format.userAssistant), tokensAtMost(format.assistantUser))

    @Volatile
    private var stopped = false

    /** Ends what [ask] is doing, at the next token; from any thread. */
    fun stop() {
        stopped = true
    }

    /** Begins a new conversation. */
    fun clear() = turns.clear()

    /**
     * Asks the next question; returns when there is an answer, or none.
     *
     * @throws TooLong if the question does not fit into a model.
     */
    fun ask(
        question: String,
        listener: ChatListener,
    ): Outcome {
        stopped = false
        val asked = defused(question).let { Turn(it, tokensAtMost(it) + joint) }
        val questioned = turns.map(Turn::text) + asked.text
        if (!passes(questioned, listener::onQuestionJudged)) return Outcome.Refused
        if (stopped) return Outcome.Stopped
        val answer = answer(asked, listener)
        val text = defused(answer.text.trim())
        if (text == "") return Outcome.Answered(answer)
        if (!passes(questioned + text, listener::onAnswerJudged)) return Outcome.Withheld
        turns += asked
        turns += Turn(text, answer.tokens + joint)
        return Outcome.Answered(answer)
    }

    private fun passes(
        texts: List<String>,
        tell: (Verdict) -> Unit,
    ): Boolean {
        val verdict = guard?.judge(texts) ?: return true
        tell(verdict)
        return verdict.kind == VerdictKind.SAFE
    }

    private fun answer(
        asked: Turn,
        listener: ChatListener,
    ): Answer {
        val all = turns + asked
        val time = now()
        val frame = tokensAtMost(format.render(null, listOf(""), time))
        val plan = budget.plan(frame, all.map(Turn::tokens))
        val kept = all.drop(plan.dropped)
        val stream = AnswerStream(stopTokens, plan.maxNewTokens, { stopped }, nanoTime)
        val counts =
            engine.generate(format.render(null, kept.map(Turn::text), time)) { piece ->
                stream.accept(piece).also { listener.onAnswerGrew(stream.answer()) }
            }
        // What the runner has counted replaces the bound: the rest of the prompt was counted before.
        if (counts != null) {
            asked.tokens = maxOf(0, counts.prompt - frame - kept.dropLast(1).sumOf(Turn::tokens))
        }
        return stream.finish()
    }

    private companion object {
        /**
         * A text without names of special tokens: the runner's tokenizer would take `<|eot_id|>` in a message for the end
         * of that message, and what follows for words of another role.
         */
        fun defused(text: String): String = text.replace("<|", "< |")
    }
}
