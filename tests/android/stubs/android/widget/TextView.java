package android.widget;

import android.content.Context;
import android.graphics.Typeface;
import android.view.View;

public class TextView extends View {
    public TextView(Context context) {
        super(context);
    }

    public native CharSequence getText();

    public final native void setText(CharSequence text);

    public final native void setText(int id);

    public final native void append(CharSequence text);

    public native int getGravity();

    public native void setGravity(int gravity);

    public native Typeface getTypeface();

    public native void setTypeface(Typeface typeface, int style);

    public native void setTextIsSelectable(boolean selectable);
}
