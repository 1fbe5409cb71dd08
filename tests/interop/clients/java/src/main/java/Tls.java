import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.DefaultSaslConfig;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/** TLS of PEM files as `gridmsg certs` makes them: an authority, and a client's certificate with its key (P-256). */
final class Tls {
    private Tls() { }

    /** Files: none, the authority's, or the authority's and the client's certificate and key; then the login is EXTERNAL. */
    static void use(ConnectionFactory factory, String[] files) throws IOException, GeneralSecurityException {
        if (files.length == 0) {
            return;
        }
        KeyStore trusted = empty();
        trusted.setCertificateEntry("ca", chain(files[0])[0]);
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        KeyStore own = empty();
        if (files.length == 3) {
            String text = Files.readString(Path.of(files[2])).replaceAll("-----[A-Z ]+-----", "");
            byte[] encoded = Base64.getMimeDecoder().decode(text);
            own.setKeyEntry("own", KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(encoded)),
                new char[0], chain(files[1]));
            factory.setSaslConfig(DefaultSaslConfig.EXTERNAL);
        }
        keys.init(own, new char[0]);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        factory.useSslProtocol(context);
        factory.enableHostnameVerification();
    }

    private static KeyStore empty() throws IOException, GeneralSecurityException {
        KeyStore made = KeyStore.getInstance("PKCS12");
        made.load(null, null);
        return made;
    }

    private static Certificate[] chain(String file) throws IOException, GeneralSecurityException {
        try (InputStream in = Files.newInputStream(Path.of(file))) {
            return CertificateFactory.getInstance("X.509").generateCertificates(in).toArray(new Certificate[0]);
        }
    }
}
