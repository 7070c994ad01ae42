package android.content;

import android.content.res.Resources;
import java.io.File;

public abstract class Context {
    public native File getFilesDir();

    public native ContentResolver getContentResolver();

    public native Resources getResources();

    public final native String getString(int id);

    public final native String getString(int id, Object... arguments);

    public native void startActivity(Intent intent);
}
