package android.view;

import android.content.Context;
import android.content.res.Resources;

public class View {
    public static final int FOCUS_DOWN = 0x00000082;

    public View(Context context) {}

    public final native Context getContext();

    public native Resources getResources();

    public native void setPadding(int left, int top, int right, int bottom);

    public native void setOnClickListener(OnClickListener listener);

    public native boolean post(Runnable action);

    public interface OnClickListener {
        void onClick(View view);
    }
}
