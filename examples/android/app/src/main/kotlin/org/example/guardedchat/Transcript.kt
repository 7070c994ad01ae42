package org.example.guardedchat

import android.graphics.Typeface
import android.view.Gravity
import android.view.View
import android.view.ViewGroup.LayoutParams
import android.widget.LinearLayout
import android.widget.ScrollView
import android.widget.TextView

/** The conversation on the screen: messages, verdicts and notes, one below the other. */
class Transcript(
    private val scroll: ScrollView,
    private val list: LinearLayout,
) {
    /** A message of the user. */
    fun question(text: String): TextView = add(text).apply { gravity = Gravity.END }

    /** A message of the model; its text grows. */
    fun answer(): TextView = add("").apply { setTextIsSelectable(true) }

    /** What the app has to say. */
    fun note(text: String): TextView = add(text).apply { setTypeface(typeface, Typeface.ITALIC) }

    /** Shows the last line, after it has changed. */
    fun follow() {
        scroll.post { scroll.fullScroll(View.FOCUS_DOWN) }
    }

    fun clear() = list.removeAllViews()

    private fun add(text: String): TextView {
        val view = TextView(list.context)
        val padding = (PADDING_DP * list.resources.displayMetrics.density).toInt()
        view.text = text
        view.setPadding(padding, padding, padding, padding)
        list.addView(view, LayoutParams.MATCH_PARENT, LayoutParams.WRAP_CONTENT)
        follow()
        return view
    }

    private companion object {
        const val PADDING_DP = 6
    }
}
