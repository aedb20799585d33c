package fleet;

import java.util.HashMap;
import java.util.Map;

/** What a program is to do, from its arguments name=value. */
public record Options(
        String bootstrap,
        String input,
        String features,
        String alerts,
        String group,
        String folder,
        long total,
        int signals,
        boolean exactlyOnce,
        boolean chained,
        int threads) {

    public static Options parse(String[] arguments) {
        Map<String, String> given = new HashMap<>();
        for (String argument : arguments) {
            int at = argument.indexOf('=');
            if (at < 0) {
                throw new IllegalArgumentException("'" + argument + "' is not name=value");
            }
            given.put(argument.substring(0, at), argument.substring(at + 1));
        }
        return new Options(
                need(given, "bootstrap"),
                need(given, "input"),
                need(given, "features"),
                need(given, "alerts"),
                need(given, "group"),
                need(given, "folder"),
                Long.parseLong(need(given, "total")),
                Integer.parseInt(need(given, "signals")),
                need(given, "guarantee").equals("exactly_once"),
                Boolean.parseBoolean(given.getOrDefault("chained", "false")),
                Integer.parseInt(need(given, "threads")));
    }

    private static String need(Map<String, String> given, String name) {
        String value = given.get(name);
        if (value == null) {
            throw new IllegalArgumentException(name + "= is missing");
        }
        return value;
    }
}
